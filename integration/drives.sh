#!/usr/bin/env bash
# zvhost serves real zoned block devices: in a guest that plays the host, as the
# machines that it is built on have none. For each drive: the suite that every
# zoned disk has to pass (integration/suite), then what integration/drives does:
# zones as a guest, zvhost report and the kernel see them; kill -9; faults.
#
#   integration/drives.sh [DRIVE...]   users (no zoned drive: files of XFS that are
#                                      reflinked, 4Kn disks, devices and files that
#                                      somebody uses already), null_blk, dm (dm-linear on it), nvme (zoned
#                                      namespaces), scsi (SMR), zvhost (on zvhost),
#                                      newest (null_blk of a newer kernel), plant (a
#                                      bug that has to be found); without any, all.
#                                      short: null_blk without the suite (make test);
#                                      whole: null_blk with all of the suite, 6 minutes
#
# What is tried on which, and why not where not:
#
#                      null_blk  dm  nvme  scsi  zvhost  newest
#   suite, kill -9            x   x     x     x       x       x
#   ... under a keeper        x   x     x     x       x       x
#   to another daemon         x   a     a     a       a       a
#   512, 4096-byte blocks     x   1     2     x       3       3
#   limits                    x         x     4       5
#   writes that fail          x   6     x     x       x       x
#   ... and land in part      7         8     7       x       x
#   zones out of service      x   6     9     9       x       x
#   ... and in it again       x   6     9     9       x       x
#   drive that vanishes       x   6     x     x       x       x
#
#   1  those of the drive below       2  the suite on 512 bytes, limits on 4096
#   3  one size; the image backend's own tests cross them all
#   4  scsi_debug closes zones as null_blk does, which has the test
#   5  the outer zvhost's own tests   6  would be faults of the null_blk below
#   7  Linux 6.12 cannot: null_blk has badblocks_partial_io from 6.15 on, and
#      scsi_debug carries out a command or fails it
#   8  the other way round: the write pointer moves, the data is not there
#   9  the emulation has no way to ask for it
#   a  it is closing and opening, which is the same for all
#
# Of the suite, TestTable and TestRandom run, thinned as the emulator is slow (but for
# "whole"); the scripts of integration/suite cannot: each names the disk that it is
# for, with zones of 64 or 128 sectors where null_blk has whole MiB, and with limits,
# whose rules are a drive's own (see below).
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
if ((!$#)); then drives=(users null_blk dm nvme scsi zvhost plant newest); fi

kills=10     # under a keeper, on each drive
patience=300 # seconds for a command in the guest

export CGO_ENABLED=0
go build -trimpath -o "$VM_RUN/zvhost" ./cmd/zvhost
go build -trimpath -o "$VM_RUN/drives" ./integration/drives
go test -c -trimpath -o "$VM_RUN/suite" ./integration/suite
if [[ " ${drives[*]} " == *" plant "* ]]; then
	go build -trimpath -tags zvhost_plant -ldflags "-X github.com/zvhost/zvhost/internal/plant.bug=merged" -o "$VM_RUN/zvhost-merged" ./cmd/zvhost
fi

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
	await 120 "the socket of zvhost" test -S "$socket" || { cat "$socket.log"; return 1; }
}
# stop SOCKET: by SIGTERM; it may be a zombie then, when it is not our child.
stop() {
	local pid
	pid=$(<"$1.pid")
	kill "$pid"
	await 120 "the end of zvhost" ended "$pid"
}
ended() { ! grep -qs '^State:.[^Z]' "/proc/$1/status"; }
EOF
# Drives that the guest boots with, and what is added to it.
plugged=() disks=() add=()
for file in zvhost drives suite zvhost-merged; do
	if [[ -e $VM_RUN/$file ]]; then add+=(--add "$VM_RUN/$file:/bin/"); fi
done
# bad_sectors N...: of blkdebug.
bad_sectors() {
	local i=0 sector
	for sector; do
		printf ',file.inject-error.%d.%s' $i event=none $i iotype=write $i errno=5 $i once=off $i "sector=$sector"
		i=$((i + 1))
	done
}
for drive in "${drives[@]}"; do
	case $drive in
	nvme)
		truncate -s 2M "$VM_RUN/nvme1" "$VM_RUN/nvme2" "$VM_RUN/nvme3"
		disks+=(-device "nvme,id=nvme,serial=ZVHOST"
			-drive "file=$VM_RUN/nvme1,if=none,id=ns1,format=raw"
			-device "nvme-ns,drive=ns1,nsid=1,bus=nvme,zoned=true,logical_block_size=512,physical_block_size=512,zoned.zone_size=128K,zoned.zone_capacity=96K"
			-drive "file=$VM_RUN/nvme2,if=none,id=ns2,format=raw"
			-device "nvme-ns,drive=ns2,nsid=2,bus=nvme,zoned=true,logical_block_size=4096,physical_block_size=4096,zoned.zone_size=128K,zoned.max_open=2,zoned.max_active=4"
			# Its zones 1 and 5 have a sector each that cannot be written.
			-drive "if=none,id=ns3,driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename=$VM_RUN/nvme3$(bad_sectors 300 1400)"
			-device "nvme-ns,drive=ns3,nsid=3,bus=nvme,zoned=true,logical_block_size=512,physical_block_size=512,zoned.zone_size=128K,zoned.zone_capacity=96K")
		;;
	zvhost)
		"$VM_RUN/zvhost" create "$VM_RUN/outer.zvh" --size 2M --zone-size 128K --zone-capacity 96K --conventional 2 >/dev/null
		run_start outer "$VM_RUN/zvhost" serve --socket-path "$VM_RUN/outer" --blk-file "$VM_RUN/outer.zvh" --queues 4 --control-path "$VM_RUN/control"
		await 120 "the outer zvhost's socket" test -S "$VM_RUN/outer"
		plugged+=(--zoned "$VM_RUN/outer,2")
		;;
	esac
done
vm_start host --memory 2G "${plugged[@]}" "${add[@]}" --add "$VM_RUN/host.sh:/" -- "${disks[@]}"

# begin TEXT: what comes next, and how far that is.
declare -A parts=([short]=4 [users]=3 [whole]=1 [null_blk]=5 [dm]=1 [nvme]=1 [scsi]=2 [zvhost]=1 [plant]=1 [newest]=1)
part=0 all_parts=0
for drive in "${drives[@]}"; do all_parts=$((all_parts + ${parts[$drive]:-0})); done
begin() {
	part=$((part + 1))
	step "$part/$all_parts, after $SECONDS s: $*"
}

# host COMMAND: in the guest, with what is above; its last line is left in $said.
host() {
	local status=0 output
	output=$(guest -t "$patience" ". /host.sh; $1" 2>&1) || status=$?
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
	local kills=$kills
	if [[ $1 == short ]]; then kills=3; fi
	begin "null_blk, blocks of 512 bytes, zones larger than their capacity, conventional zones"
	host "nullb n0 size=14 zone_size=2 zone_capacity=1 zone_nr_conv=2 blocksize=512"
	if [[ $1 == all ]]; then suite /dev/n0 "512-byte blocks" 47 3; fi
	host "drives -device /dev/n0 kill"
	ok "kill -9: $said"
	host "drives -device /dev/n0 -rounds $((2 * kills)) keep"
	ok "under a keeper: $said"
	host "drives -device /dev/n0 -rounds $kills move"
	ok "$said"
	host "drives -device /dev/n0 -configfs \$nullb/n0 -vanish \$nullb/n0/power=0 faults"
	ok "$said"

	begin "null_blk, blocks of 4096 bytes, a smaller last zone"
	host "nullb n1 size=9 zone_size=2 blocksize=4096"
	if [[ $1 == all ]]; then suite /dev/n1 "4096-byte blocks" 101 2; fi
	host "drives -device /dev/n1 -rounds 2 kill"
	ok "kill -9: $said"
	host "drives -device /dev/n1 -rounds $kills keep"
	ok "under a keeper: $said"
	host "drives -device /dev/n1 -zones 1-3 -rounds 4 move"
	ok "a window of it: $said"
	if [[ $1 == all ]]; then
		host "drives -device /dev/n1 -configfs \$nullb/n1 -vanish \$nullb/n1/power=0 faults"
		ok "$said"
	fi

	begin "null_blk, limits"
	host "nullb n2 size=20 zone_size=2 zone_capacity=1 zone_max_open=2 zone_max_active=4 blocksize=4096; drives -device /dev/n2 limits"
	ok "$said"

	begin "windows of one drive"
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

on_users() {
	begin "files of XFS that are reflinked, past the page cache"
	host 'modprobe xfs; modprobe loop; nullb x1 zoned=0 size=400 blocksize=512
		mkfs.xfs -q -m reflink=1 /dev/x1; mkdir -p /x; mount -t xfs /dev/x1 /x
		truncate -s 1049088 /x/plain; dd if=/dev/urandom of=/x/plain bs=64K count=16 conv=notrunc status=none
		zvhost create /x/zoned.zvh --size 4M --zone-size 128K --conventional 2 >/dev/null'
	local file blocks
	for file in plain zoned.zvh; do
		host "serve /tmp/s /x/$file --cache=direct; drives -device /x/$file -socket /tmp/s edges"
		blocks=$said
		assert_match "what a guest sees of /x/$file" '^blocks of 512 bytes' "$blocks"
		host "cp --reflink=always /x/$file /x/$file.served; drives -device /x/$file -socket /tmp/s edges"
		assert_eq "/x/$file, reflinked while it is served" "$blocks" "$said"
		host "stop /tmp/s; cp --reflink=always /x/$file /x/$file.before
			serve /tmp/s /x/$file --cache=direct; drives -device /x/$file -socket /tmp/s edges; stop /tmp/s"
		assert_eq "/x/$file, served once it was reflinked" "$blocks" "$(tail -n 1 <<<"$said")"
		host "serve /tmp/s /x/$file.before --cache=direct; drives -device /x/$file.before -socket /tmp/s edges"
		assert_eq "/x/$file.before, a reflinked copy" "$blocks" "$said"
		host "stop /tmp/s"
		ok "$file on XFS, reflinked while it is served, before it is, and a copy of it: $blocks"
	done
	host 'for image in /x/zoned.zvh*; do zvhost check $image; done'
	ok "the images are sound"

	begin "a 4Kn disk, null_blk with blocks of 4096 bytes"
	host 'nullb k1 zoned=0 size=16 blocksize=4096; serve /tmp/s /dev/k1; drives -device /dev/k1 -socket /tmp/s edges'
	assert_eq "a 4Kn disk" "blocks of 4096 bytes, 32768 sectors" "$said"
	host 'stop /tmp/s; serve /tmp/s /dev/k1 --block-size 512 --cache=direct; drives -device /dev/k1 -socket /tmp/s edges'
	assert_eq "a 4Kn disk with --block-size 512, past the page cache" "blocks of 512 bytes, 32768 sectors" "$said"
	host 'stop /tmp/s; serve /tmp/s /dev/k1 --block-size 512; drives -device /dev/k1 -socket /tmp/s edges'
	assert_eq "a 4Kn disk with --block-size 512" "blocks of 512 bytes, 32768 sectors" "$said"
	ok "a 4Kn disk is shown with its own blocks, or with 512 bytes on request"

	begin "devices and files that somebody uses already"
	local maker='mknod /tmp/node b $((0x$(stat -c %t /dev/k1))) $((0x$(stat -c %T /dev/k1)))'
	host "$maker"
	refused 'is in use: open in process [0-9]+ \(zvhost\)' "another node of a device that is served" /tmp/node
	host 'stop /tmp/s; serve /tmp/s /tmp/node'
	refused 'is in use: open in process [0-9]+ \(zvhost\)' "the usual node of a device that is served through another one" /dev/k1
	host 'stop /tmp/s'
	refused "is in use: .*mounted.* /x" "a device that is mounted" /dev/x1 --format raw
	host 'serve /tmp/s /x/plain; losetup /dev/loop0 /x/plain'
	refused "in use" "a loop device over a file that is served" /dev/loop0
	host 'stop /tmp/s'
	refused "in use by /dev/loop0" "a file under a loop device" /x/plain
	refused "in use by /dev/loop0" "a file under a loop device, to be read only" /x/plain --read-only
	host 'serve /tmp/s /dev/loop0; drives -device /dev/loop0 -socket /tmp/s edges; stop /tmp/s; losetup -d /dev/loop0
		serve /tmp/s /x/plain; drives -device /x/plain -socket /tmp/s edges; stop /tmp/s; umount /x
		serve /tmp/s /dev/x1 --format raw; drives -device /dev/x1 -socket /tmp/s edges; stop /tmp/s'
	ok "each of them is served once nobody else uses it"
}

# refused PATTERN WHAT FILE [OPTION...]: zvhost does not serve that, and says who has it.
refused() {
	local pattern=$1 what=$2
	shift 2
	guest_fails "$pattern" "zvhost serve --socket-path /tmp/refused --blk-file $* 2>&1"
	ok "$what is refused"
}

on_whole() {
	local patience=2000
	begin "null_blk, all of the suite"
	host "nullb n8 size=14 zone_size=2 zone_capacity=1 zone_nr_conv=2 blocksize=512"
	suite /dev/n8 "all of it" 1 100
}

on_many() {
	begin "null_blk, 65,536 zones"
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

on_dm() {
	begin "dm-linear on zones 2 to 9 of a null_blk"
	host "nullb n5 size=20 zone_size=2 zone_capacity=1 blocksize=4096; modprobe dm-mod
		dmsetup create linear --noudevrules --noudevsync --table '0 32768 linear /dev/n5 8192'; await 60 'the mapped device' test -b /dev/dm-0"
	suite /dev/dm-0 "dm-linear" 101 2
	host "drives -device /dev/dm-0 kill"
	ok "dm-linear, kill -9: $said"
	host "drives -device /dev/dm-0 -rounds $kills keep"
	ok "dm-linear, under a keeper: $said"
	guest_fails 'is in use' 'zvhost serve --socket-path /tmp/c --blk-file /dev/n5'
	ok "the drive below is in use"
}

on_nvme() {
	begin "an emulated NVMe drive with zoned namespaces"
	# The kernel finds them on its own time, and names them in any order.
	host 'namespaces() { ls -d /sys/block/nvme*n* | wc -l | grep -qx 3; }
		await 120 "three namespaces" namespaces
		for n in 1 2 3; do grep -lx $n /sys/block/nvme*/nsid; done | sed "s,/sys/block/\(.*\)/nsid,/dev/\1," | paste -sd " "'
	read -ra ns <<<"$said"
	suite "${ns[0]}" "NVMe, 512-byte blocks" 401 1
	host "drives -device ${ns[0]} kill"
	ok "NVMe, kill -9: $said"
	host "drives -device ${ns[0]} -rounds $kills keep"
	ok "NVMe, under a keeper: $said"
	host "drives -device ${ns[1]} limits"
	ok "NVMe, 4096-byte blocks: $said"
	host "drives -device ${ns[2]} -rounds 3 -refused -vanish /sys/class/nvme/nvme0/device/remove=1 storm"
	ok "NVMe, sectors that cannot be written: $said"
}

# smr PARAMETER...: makes the drive $smr, whose rules are in $rules.
smr() {
	host "modprobe sd_mod; modprobe -r scsi_debug
		modprobe scsi_debug zbc=managed dev_size_mb=12 zone_size_mb=1 zone_nr_conv=2 zone_max_open=0 delay=0 $*
		# It is probed in the background.
		found() { smr=\$(ls /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*/block 2>/dev/null) && [[ -b /dev/\$smr ]]; }
		await 120 'the drive of scsi_debug' found
		echo 1 >/sys/block/\$smr/device/timeout
		echo \$smr \$(basename \$(readlink -f /sys/block/\$smr/device))"
	read -r smr rules <<<"$said"
	rules=/sys/kernel/debug/scsi_debug/$rules/error
}

on_scsi() {
	begin "an emulated SMR drive (scsi_debug), 512-byte blocks"
	smr
	suite "/dev/$smr" "SMR" 401 1
	host "drives -device /dev/$smr kill"
	ok "SMR, kill -9: $said"
	host "drives -device /dev/$smr -rounds $kills keep"
	ok "SMR, under a keeper: $said"
	host "drives -device /dev/$smr -errors $rules -vanish /sys/block/$smr/device/delete=1 scsi"
	ok "SMR: $said"

	begin "an emulated SMR drive (scsi_debug), 4096-byte blocks"
	smr sector_size=4096
	suite "/dev/$smr" "SMR, 4096-byte blocks" 401 1
	host "drives -device /dev/$smr -rounds 2 kill"
	ok "SMR, 4096-byte blocks, kill -9: $said"
	host "drives -device /dev/$smr -errors $rules -vanish /sys/block/$smr/device/delete=1 scsi"
	ok "SMR, 4096-byte blocks: $said"
}

on_zvhost() {
	begin "a disk that another zvhost serves from an image"
	suite /dev/vda "zvhost on zvhost" 401 1
	host "drives -device /dev/vda kill"
	ok "zvhost on zvhost, kill -9: $said"
	host "drives -device /dev/vda -rounds $kills keep"
	ok "zvhost on zvhost, under a keeper: $said"
	same_zones
	# Sectors that fail behind the first ones, and zones out of service and back.
	"$VM_RUN/zvhost" fault add "$VM_RUN/control" write,zone=4,after=8 append,zone=4,after=8 write,zone=5 append,zone=5 >/dev/null
	host ': >/tmp/storm; { drives -device /dev/vda -rounds 1000 -until /tmp/calm -refused storm >>/tmp/storm 2>&1 || true; touch /tmp/ended; } &'
	for state in read-only writable offline writable; do
		round
		"$VM_RUN/zvhost" zone set-state "$VM_RUN/control" 7 $state >/dev/null
	done
	round
	"$VM_RUN/zvhost" fault clear "$VM_RUN/control" >/dev/null
	host 'touch /tmp/calm; await 280 "the end of the storm" test -e /tmp/ended; tail -n 1 /tmp/storm; ! grep -q FOUND /tmp/storm'
	ok "zvhost on zvhost, writes that fail, some in part, zones out of service and back: $said"
	same_zones
	host "drives -device /dev/vda -rounds 1 -vanish /sys/bus/virtio/drivers/virtio_blk/unbind=\$(basename \$(readlink -f /sys/block/vda/device)) storm"
	ok "zvhost on zvhost: $said"
}

# round: returns when the storm has begun and ended a round meanwhile, or is over.
round() {
	host 'rounds() { grep -c ^round /tmp/storm || true; }
		n=$(rounds)
		more() { [[ -e /tmp/ended ]] || (($(rounds) > n + 1)); }
		await 280 "another round of the storm" more'
}

same_zones() {
	assert_eq "the zones in the outer zvhost's image" "$(guest 'zvhost report /dev/vda')" "$("$VM_RUN/zvhost" report "$VM_RUN/outer.zvh")"
	ok "the outer zvhost has the same zones"
}

on_plant() {
	begin "a zvhost that has a bug on purpose (internal/plant)"
	host 'nullb n6 size=14 zone_size=2 zone_capacity=1 blocksize=512
		for try in {1..5}; do
			if ! drives -zvhost /bin/zvhost-merged -device /dev/n6 -configfs $nullb/n6 faults >/tmp/found; then break; fi
		done
		cat /tmp/found; grep -q FOUND /tmp/found'
	ok "a bug is found that is there: $said"
}

on_newest() {
	local newest
	newest=$("$here/vm/newest.sh")
	vm_start newest --kernel "$newest" "${add[@]}" --add "$VM_RUN/host.sh:/"
	begin "null_blk of Linux $(<"$newest/release"): bad blocks up to which data lands, reports from the kernel's cache"
	host "nullb n7 size=14 zone_size=2 zone_capacity=1 zone_nr_conv=2 blocksize=512 badblocks_partial_io=1"
	suite /dev/n7 "null_blk of a newer kernel" 101 2
	host "drives -device /dev/n7 kill"
	ok "kill -9: $said"
	host "drives -device /dev/n7 -rounds $kills keep"
	ok "under a keeper: $said"
	host "drives -device /dev/n7 -configfs \$nullb/n7 -vanish \$nullb/n7/power=0 faults"
	ok "in part: $said"
	vm_sane
	vm_stop
}

for drive in "${drives[@]}"; do
	case $drive in
	short) on_null_blk short ;;
	users) on_users ;;
	whole) on_whole ;;
	dm) on_dm ;;
	nvme) on_nvme ;;
	scsi) on_scsi ;;
	zvhost) on_zvhost ;;
	plant) on_plant ;;
	null_blk)
		on_null_blk all
		on_many
		;;
	newest) ;; # a guest of its own, afterwards
	*) die "$drive: no such drive; see the head of drives.sh" ;;
	esac
done
vm_sane
vm_stop
if [[ ${plugged[*]} ]]; then run_stop outer; fi
if [[ " ${drives[*]} " == *" newest "* ]]; then on_newest; fi
