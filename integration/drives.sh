#!/usr/bin/env bash
# zvhost serves real zoned block devices: in a guest that plays the host, as the
# machines that it is built on have none. For each drive: the suite that every
# zoned disk has to pass (integration/suite), then what integration/drives does:
# zones as a guest, zvhost report and the kernel see them; kill -9; faults.
#
#   integration/drives.sh [DRIVE...]   null_blk, nvme (zoned namespaces), scsi (SMR),
#                                      zvhost (on zvhost); without any, all of them.
#                                      short: null_blk without the suite (make test)
#
# What needs no drive of its own sort is tried on null_blk. Drives have rules of
# their own about which open zone is closed to make room, and what needs room, so
# the suite runs on drives without limits, and "drives limits" on those with some.
# null_blk with limits does not bear load either: a zone that it closes to make
# room while its first write is under way is empty by its report, with data in it
# (null_close_imp_open_zone in drivers/block/null_blk/zoned.c, Linux 6.12).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=integration/vm/guest.sh
source "$here/vm/guest.sh"
cd "$here/.."
drives=("$@")
if ((!$#)); then drives=(null_blk nvme scsi zvhost); fi

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
# stop SOCKET: by SIGTERM; it may be a zombie then, when it is not our child.
stop() {
	local pid
	pid=$(<"$1.pid")
	kill "$pid"
	for _ in {1..200}; do
		if ! grep -qs '^State:.[^Z]' "/proc/$pid/status"; then return; fi
		sleep 0.05
	done
	return 1
}
EOF
# Drives that the guest boots with.
plugged=() disks=()
for drive in "${drives[@]}"; do
	case $drive in
	nvme)
		truncate -s 2M "$VM_RUN/nvme1" "$VM_RUN/nvme2"
		disks+=(-device "nvme,id=nvme,serial=ZVHOST"
			-drive "file=$VM_RUN/nvme1,if=none,id=ns1,format=raw"
			-device "nvme-ns,drive=ns1,bus=nvme,zoned=true,logical_block_size=512,physical_block_size=512,zoned.zone_size=128K,zoned.zone_capacity=96K"
			-drive "file=$VM_RUN/nvme2,if=none,id=ns2,format=raw"
			-device "nvme-ns,drive=ns2,bus=nvme,zoned=true,logical_block_size=4096,physical_block_size=4096,zoned.zone_size=128K,zoned.max_open=2,zoned.max_active=4")
		;;
	zvhost)
		"$VM_RUN/zvhost" create "$VM_RUN/outer.zvh" --size 2M --zone-size 128K --zone-capacity 96K --conventional 2 >/dev/null
		run_start outer "$VM_RUN/zvhost" serve --socket-path "$VM_RUN/outer" --blk-file "$VM_RUN/outer.zvh" --queues 4
		wait_for 10 "the outer zvhost's socket" test -S "$VM_RUN/outer"
		plugged+=(--zoned "$VM_RUN/outer,2")
		;;
	esac
done
vm_start host --memory 2G "${plugged[@]}" --add "$VM_RUN/zvhost:/bin/" --add "$VM_RUN/drives:/bin/" \
	--add "$VM_RUN/suite:/bin/" --add "$VM_RUN/host.sh:/" -- "${disks[@]}"

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
	if [[ $1 == all ]]; then suite /dev/n0 "512-byte blocks" 47 3; fi
	host "drives -device /dev/n0 kill"
	ok "kill -9: $said"
	host "drives -device /dev/n0 -configfs \$nullb/n0 faults"
	ok "faults: $said"

	step "null_blk, blocks of 4096 bytes, a smaller last zone"
	host "nullb n1 size=9 zone_size=2 blocksize=4096"
	if [[ $1 == all ]]; then suite /dev/n1 "4096-byte blocks" 101 2; fi
	host "drives -device /dev/n1 -rounds 2 kill"
	ok "kill -9: $said"

	step "null_blk, limits"
	host "nullb n2 size=20 zone_size=2 zone_capacity=1 zone_max_open=2 zone_max_active=4 blocksize=4096; drives -device /dev/n2 limits"
	ok "$said"

	step "windows of one drive"
	host "nullb n3 size=20 zone_size=2 zone_capacity=1 blocksize=4096; serve /tmp/a /dev/n3 --zones 1-4; serve /tmp/b /dev/n3 --zones 5-9
		drives -device /dev/n3 -zones 1-4 -socket /tmp/a agree
		drives -device /dev/n3 -zones 5-9 -socket /tmp/b agree"
	ok "two daemons serve windows of one drive"
	guest_fails 'zones of it are served already' 'zvhost serve --socket-path /tmp/c --blk-file /dev/n3 --zones 4-4'
	guest_fails 'zones of it are served already|is in use' 'zvhost serve --socket-path /tmp/c --blk-file /dev/n3'
	ok "a window that overlaps is refused, and so is the whole drive"
	host "stop /tmp/b; drives -device /dev/n3 -zones 5-9 -rounds 2 kill
		drives -device /dev/n3 -zones 1-4 -socket /tmp/a agree; stop /tmp/a"
	ok "kill -9 of a daemon with a window, while another one serves the next"
}

on_many() {
	step "null_blk, 65,536 zones"
	host "nullb n4 size=65536 zone_size=1 memory_backed=0 blocksize=4096
		began=\$EPOCHREALTIME
		serve /tmp/s /dev/n4
		ended=\$EPOCHREALTIME
		drives -device /dev/n4 -socket /tmp/s agree
		stop /tmp/s
		echo \$(((\${ended/./} - \${began/./}) / 1000))"
	ok "a drive of 65,536 zones is served, and three reports agree"
	printf 'note: 65,536 zones served after %s ms\n' "$said"
}

on_nvme() {
	step "an emulated NVMe drive with zoned namespaces"
	suite /dev/nvme0n1 "NVMe, 512-byte blocks" 401 1
	host "drives -device /dev/nvme0n1 kill"
	ok "NVMe, kill -9: $said"
	host "drives -device /dev/nvme0n2 limits"
	ok "NVMe, 4096-byte blocks: $said"
}

on_scsi() {
	step "an emulated SMR drive (scsi_debug)"
	host "modprobe sd_mod; modprobe scsi_debug zbc=managed dev_size_mb=12 zone_size_mb=1 zone_nr_conv=2 zone_max_open=0 delay=0
		udevadm settle 2>/dev/null || sleep 1
		ls /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*/block"
	smr=/dev/$said
	suite "$smr" "SMR" 401 1
	host "drives -device $smr kill"
	ok "SMR, kill -9: $said"
}

on_zvhost() {
	step "a disk that another zvhost serves from an image"
	suite /dev/vda "zvhost on zvhost" 401 1
	host "drives -device /dev/vda kill"
	ok "zvhost on zvhost, kill -9: $said"
	assert_eq "the zones in the outer zvhost's image" "$(guest 'zvhost report /dev/vda')" "$("$VM_RUN/zvhost" report "$VM_RUN/outer.zvh")"
	ok "the outer zvhost has the same zones"
}

for drive in "${drives[@]}"; do
	case $drive in
	short) on_null_blk short ;;
	nvme) on_nvme ;;
	scsi) on_scsi ;;
	zvhost) on_zvhost ;;
	null_blk)
		on_null_blk all
		on_many
		;;
	*) die "$drive: no such drive; see the head of drives.sh" ;;
	esac
done
vm_sane
vm_stop
if [[ ${plugged[*]} ]]; then run_stop outer; fi
