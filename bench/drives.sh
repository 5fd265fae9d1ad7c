#!/usr/bin/env bash
# How fast zvhost writes to a zoned drive that takes a while for each request,
# beside a build of it that holds one lock over the whole drive while data goes
# down, as what it grew out of does (backend/drive/lock_one.go). In a guest that
# plays the host: null_blk answers each request after 100 microseconds or 1 ms.
# Both serve at the same time, each a drive of its own, and are measured in turn.
# Fails when appends into 4 zones and more are not 3 times as fast at 1 ms. At 100
# microseconds they need not be: the emulated guest's processors take longer for a
# request than the drive does, and those they share.
#
#   bench/drives.sh [ROUNDS [OPTION...]]   5 if not said, and the medians count;
#                                          options of zvhost serve, for both builds
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=integration/vm/guest.sh
source "$here/../integration/vm/guest.sh"
cd "$here/.."
rounds=${1:-5}
options="${*:2}"

export CGO_ENABLED=0
go build -trimpath -o "$VM_RUN/zvhost" ./cmd/zvhost
go build -trimpath -tags zvhost_onelock -o "$VM_RUN/onelock" ./cmd/zvhost
go build -trimpath -o "$VM_RUN/drives" ./bench/drives

# serve NAME NSEC [OPTION...]: has the zvhost of that name serve a drive of its own.
cat >"$VM_RUN/serve.sh" <<'END'
serve() {
	local name=$1 nsec=$2 attribute
	shift 2
	mkdir "/sys/kernel/config/nullb/$name-$nsec"
	for attribute in zoned=1 size=20480 zone_size=1024 blocksize=4096 irqmode=2 "completion_nsec=$nsec" power=1; do
		echo "${attribute#*=}" >"/sys/kernel/config/nullb/$name-$nsec/${attribute%=*}"
	done
	"$name" serve --socket-path "/tmp/$name" --blk-file "/dev/$name-$nsec" "$@" >"/tmp/$name.log" 2>&1 &
	echo $! >"/tmp/$name.pid"
	await 120 "the socket of $name" test -S "/tmp/$name" || { cat "/tmp/$name.log"; return 1; }
}
END
vm_start host --add "$VM_RUN/zvhost:/bin/" --add "$VM_RUN/onelock:/bin/" --add "$VM_RUN/drives:/bin/" --add "$VM_RUN/serve.sh:/"
guest 'modprobe null_blk nr_devices=0; mount -t configfs none /sys/kernel/config'
for us in 1000 100; do
	step "a drive that takes $us us for each request"
	guest ". /serve.sh; serve zvhost ${us}000 $options; serve onelock ${us}000 $options"
	want=0
	if ((us == 1000)); then want=3; fi
	guest -t $((rounds * 60 + 60)) "drives -zvhost /tmp/zvhost -onelock /tmp/onelock -rounds $rounds -want $want 2>&1"
	if ((want)); then ok "appends into 4 zones and more are at least $want times as fast as with one lock"; fi
	guest 'for name in zvhost onelock; do kill "$(</tmp/$name.pid)"; done
		gone() { [[ ! -S /tmp/$1 ]]; }
		for name in zvhost onelock; do await 120 "the end of $name" gone "$name"; done'
done
vm_sane
vm_stop
