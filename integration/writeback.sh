#!/usr/bin/env bash
# A real kernel loses data that it was to write back: in a guest that plays the host
# zoned images and ordinary disks stand on ext4, over a disk that has no room for a
# moment, and no flush may say that all is well (integration/writeback has the program
# that does it all). A zvhost that syncs by the open file description that it writes
# to, and forgets what it was told, is caught, which shows that the test can fail.
#
# It builds its zvhost from the sources, one as it is shipped and one with the bug.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=integration/vm/guest.sh
source "$here/vm/guest.sh"
cd "$here/.."

step "data that the kernel cannot write back"
export CGO_ENABLED=0
go build -trimpath -o "$VM_RUN/zvhost" ./cmd/zvhost
go build -trimpath -tags zvhost_plant -ldflags "-X github.com/zvhost/zvhost/internal/plant.bug=once" -o "$VM_RUN/zvhost-told" ./cmd/zvhost
go build -trimpath -o "$VM_RUN/writeback" ./integration/writeback
vm_start host --add "$VM_RUN/zvhost:/bin/" --add "$VM_RUN/zvhost-told:/bin/" --add "$VM_RUN/writeback:/bin/"

guest -t 240 writeback >"$VM_RUN/report" || die "$(<"$VM_RUN/report")"
while read -r line; do ok "$line"; done <"$VM_RUN/report"

# Not "stable writes side by side": there it is chance whom the kernel tells.
for trial in "zoned image, a reset comes first" "zoned image, a stable write to a conventional zone comes first" \
	"zoned image, another session comes first" "zoned image, the daemon is killed" "ordinary disk, flushes at once"; do
	guest_fails "^$trial: .*FOUND: .* is gone$" "writeback -zvhost /bin/zvhost-told -dir /tmp/planted -only '$trial'"
	ok "$trial: a loss that is forgotten once it was told is found"
done
vm_sane
vm_stop
