#!/usr/bin/env bash
# Power cuts for real: in a guest that plays the host an image stands on ext4 and
# on XFS, over a device that logs what reaches the disk; the power is cut at random
# places of the log, and what zvhost makes of the rest is compared with what it
# had promised (integration/powercut has the program that does it all). A zvhost
# with a bug planted is caught, which shows that the test can fail.
#
#   integration/powercut.sh [CUTS [SEED]]   CUTS on each file system (32); a SEED
#                                           takes the same disks, requests and choices
#
# It builds its zvhost from the sources, one as it is shipped and one with the bug.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
cuts=${1:-32} seed=${2:-0}
# shellcheck source=integration/vm/guest.sh
source "$here/vm/guest.sh"
cd "$here/.."

step "power cuts, $cuts on ext4 and $cuts on XFS"
export CGO_ENABLED=0
go build -trimpath -o "$VM_RUN/zvhost" ./cmd/zvhost
go build -trimpath -tags zvhost_plant -ldflags "-X github.com/zvhost/zvhost/internal/plant.bug=unsynced" -o "$VM_RUN/zvhost-unsynced" ./cmd/zvhost
go build -trimpath -o "$VM_RUN/powercut" ./integration/powercut
vm_start host --memory 3G --add "$VM_RUN/zvhost:/bin/" --add "$VM_RUN/zvhost-unsynced:/bin/" --add "$VM_RUN/powercut:/bin/"

# Both at once: each waits for its own disk now and then.
guest -t $((300 + 60 * cuts)) "
	powercut -fs xfs -dir /tmp/xfs -cuts $cuts -seed $seed >/tmp/xfs.log 2>&1 & other=\$!
	status=0
	powercut -fs ext4 -dir /tmp/ext4 -cuts $cuts -seed $seed || status=1
	wait \$other || status=1
	cat /tmp/xfs.log
	exit \$status" >"$VM_RUN/report" || die "$(<"$VM_RUN/report")"
while read -r line; do
	assert_match "the report" ", -seed=[0-9]+: $cuts cuts; " "$line"
	ok "$line"
done <"$VM_RUN/report"
printf 'note: %d power cuts\n' $((2 * cuts))

# It loses what every flush has promised, so one of the first cuts finds it, and
# ends it; the others are for bad luck.
planted=(ext4)
if ((cuts > 10)); then planted+=(xfs); fi
for fs in "${planted[@]}"; do
	guest_fails 'FOUND: .* promises given: (zone|before it is served|the disk reads otherwise)' \
		"powercut -zvhost /bin/zvhost-unsynced -fs $fs -dir /tmp/planted -cuts 40 -seed $seed -requests 300"
	ok "a flush that forgets to sync is found on $fs"
done
vm_sane
vm_stop
