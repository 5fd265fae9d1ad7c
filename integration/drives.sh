#!/usr/bin/env bash
# zvhost serves real zoned block devices: in a guest that plays the host, as the
# machines that it is built on have none. For each drive: the suite that every
# zoned disk has to pass (integration/suite), then what integration/drives does:
# zones as a guest, zvhost report and the kernel see them; kill -9; faults.
#
#   integration/drives.sh [DRIVE...]   null_blk, nvme, scsi, zvhost; all without any
#
# What needs no drive of its own sort is tried on null_blk. Drives have rules of
# their own about which open zone is closed to make room, and what needs room, so
# the suite runs on drives without limits, and "drives limits" on those with some.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=integration/vm/guest.sh
source "$here/vm/guest.sh"
cd "$here/.."
drives=("$@")
if ((!$#)); then drives=(null_blk); fi

export CGO_ENABLED=0
go build -trimpath -o "$VM_RUN/zvhost" ./cmd/zvhost
go build -trimpath -o "$VM_RUN/drives" ./integration/drives
go test -c -trimpath -o "$VM_RUN/suite" ./integration/suite

# What the guest's commands share.
cat >"$VM_RUN/host.sh" <<'EOF'
nullb=/sys/kernel/config/nullb
# nullb NAME ATTRIBUTE=VALUE...: makes the drive /dev/NAME in memory.
nullb() {
	local attribute name=$1
	shift
	if [[ ! -d $nullb ]]; then
		modprobe null_blk nr_devices=0
		mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
	fi
	mkdir "$nullb/$name"
	for attribute in memory_backed=1 zoned=1 "$@" power=1; do
		echo "${attribute#*=}" >"$nullb/$name/${attribute%%=*}"
	done
}
# serve SOCKET DRIVE [OPTION...]: returns when it listens.
serve() {
	local socket=$1 drive=$2
	shift 2
	zvhost serve --socket-path "$socket" --blk-file "$drive" --queues 4 "$@" >"$socket.log" 2>&1 &
	echo $! >"$socket.pid"
	for _ in {1..200}; do
		if [[ -S $socket ]]; then return; fi
		sleep 0.05
	done
	cat "$socket.log"
	return 1
}
# stop SOCKET: by SIGTERM; what is not our child is looked after.
stop() {
	kill "$(<"$1.pid")"
	for _ in {1..200}; do
		if [[ ! -d /proc/$(<"$1.pid") ]]; then return; fi
		sleep 0.05
	done
	return 1
}
EOF
vm_start host --memory 2G --add "$VM_RUN/zvhost:/bin/" --add "$VM_RUN/drives:/bin/" \
	--add "$VM_RUN/suite:/bin/" --add "$VM_RUN/host.sh:/"

# host COMMAND: in the guest, with what is above; its last line is left in $said.
host() {
	local status=0 output
	output=$(guest -t 300 ". /host.sh; $1" 2>&1) || status=$?
	if ((status)); then die "$1: $output"; fi
	said=$(tail -n 1 <<<"$output")
}

# suite DRIVE NAME [ONE_IN [DISKS]]: the request-level suite, quick.
suite() {
	host "serve /tmp/s $1
		suite -test.run '^(TestTable|TestRandom)\$' -test.v -socket /tmp/s -image $1 -sample -one-in ${3:-29} -rapid.checks ${4:-4} -rapid.steps 25 >/tmp/out 2>&1 ||
			{ cat /tmp/out; exit 1; }
		drives -device $1 -socket /tmp/s agree
		stop /tmp/s
		sed -n 's/.*in all: \([^;]*\);.*/\1/p; s/.*: \([0-9]* requests in [0-9]* batches\).*/\1 at random/p' /tmp/out | paste -sd ';' | sed 's/;/, /'"
	ok "$2: the suite, $said, and three reports agree"
}

on_null_blk() {
	step "null_blk, blocks of 512 bytes, zones larger than their capacity, conventional zones"
	host "nullb n0 size=14 zone_size=2 zone_capacity=1 zone_nr_conv=2 blocksize=512"
	suite /dev/n0 "512-byte blocks"
	host "drives -device /dev/n0 kill"
	ok "kill -9: $said"
	host "drives -device /dev/n0 -configfs \$nullb/n0 faults"
	ok "faults: $said"

	step "null_blk, blocks of 4096 bytes, a smaller last zone"
	host "nullb n1 size=9 zone_size=2 blocksize=4096"
	suite /dev/n1 "4096-byte blocks" 53 2

	step "null_blk, limits"
	host "nullb n2 size=20 zone_size=2 zone_capacity=1 zone_max_open=2 zone_max_active=4 blocksize=4096; drives -device /dev/n2 limits"
	ok "$said"
	host "drives -device /dev/n2 -rounds 2 kill"
	ok "kill -9, with limits: $said"

	step "windows of one drive"
	host "serve /tmp/a /dev/n2 --zones 1-4; serve /tmp/b /dev/n2 --zones 5-9
		drives -device /dev/n2 -zones 1-4 -socket /tmp/a agree
		drives -device /dev/n2 -zones 5-9 -socket /tmp/b agree"
	ok "two daemons serve windows of one drive"
	guest_fails 'zones of it are served already' 'zvhost serve --socket-path /tmp/c --blk-file /dev/n2 --zones 4-4'
	guest_fails 'zones of it are served already|is in use' 'zvhost serve --socket-path /tmp/c --blk-file /dev/n2'
	ok "a window that overlaps is refused, and so is the whole drive"
	host "stop /tmp/b; drives -device /dev/n2 -zones 5-9 -rounds 2 kill
		drives -device /dev/n2 -zones 1-4 -socket /tmp/a agree; stop /tmp/a"
	ok "kill -9 of a daemon with a window, while another one serves the next"
}

for drive in "${drives[@]}"; do
	case $drive in
	null_blk) on_null_blk ;;
	*) die "$drive: no such drive; see the head of drives.sh" ;;
	esac
done
vm_sane
vm_stop
