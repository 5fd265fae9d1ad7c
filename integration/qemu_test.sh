#!/usr/bin/env bash
# The main job on real parts: an unmodified Debian kernel under QEMU uses disks
# that zvhost serves. Each zoned geometry is taken through the guest's own tools,
# zonefs and btrfs, over a restart of guest and daemon; an ordinary disk through
# ext4; and a front-end that hides zones is shown to be refused.
#
#   integration/qemu_test.sh [ZVHOST]      default: bin/zvhost, as make build makes it
set -euo pipefail

# shellcheck source=integration/guests/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/guests/common.sh"

# geometry NAME   sets what a disk is made with; sizes in bytes. btrfs wants zones
# of 4 MiB or more and 11 active ones; open limits are small enough to be run into.
# Linux says ETOOMANYREFS for one open zone too many and EOVERFLOW for one active
# zone too many, which counts first where the limits are the same.
geometry() {
	case $1 in
	small) size=$((1024 << 20)) zone=$((16 << 20)) capacity=$((12 << 20)) conventional=4
		open=12 active=14 append=$((512 << 10)) block=512 queues=2 packed=1 rings=()
		too_many='Too many references' ;;
	large) size=$((1000 << 20)) zone=$((32 << 20)) capacity=$zone conventional=0
		open=13 active=13 append=$((1 << 20)) block=4096 queues=1 packed=0 rings=(--split-rings)
		too_many='Value too large' ;;
	esac
}

# serve NAME FILE QUEUES MORE...   a daemon for FILE, not only for an image named NAME,
# on the socket $VM_RUN/NAME.sock
serve() {
	run_start "$1" "$zvhost" serve --socket-path "$VM_RUN/$1.sock" --blk-file "$2" --queues "$3" --serial "zv-$1" "${@:4}"
	await 120 "the socket of daemon $1" test -S "$VM_RUN/$1.sock"
}

# retire NAME FILE   ends daemon NAME; FILE, if it is an image, must be sound
retire() {
	run_stop "$1" || die "daemon $1 ended with status $?"
	[[ ! -e $VM_RUN/$1.sock ]] || die "daemon $1 left its socket behind"
	[[ $2 != *.zvh ]] || "$zvhost" check "$2" > check.log || die "check of $2: $(cat check.log)"
}

# zones_agree WHEN   the guest's report of the disk is the host's
zones_agree() {
	same_zones a "$image" "$1"
	compared=$((compared + 1))
}

# zone_is NUMBER STATE WPTR   one zone as blkzone shows it; WPTR in sectors, or -
zone_is() {
	local line
	line=$(sed -n "$(($1 + 1))p" guest.zones)
	[[ $line == *"zcond:"*"($2)"* ]] || die "zone $1 is not '$2': $line"
	[[ $3 == - || $line == *"wptr $(printf '0x%06x' "$3") "* ]] || die "zone $1 has not its write pointer at $3: $line"
}

# put NUMBER OFFSET BLOCKS   writes blocks into a zone, both counted in blocks
put() {
	guest "dd if=/dev/urandom of=/dev/vda bs=$block count=$3 seek=$(($1 * zone / block + $2)) oflag=direct conv=notrunc status=none"
}

check_sysfs() {
	local want got
	want="host-managed $((zone >> 9)) $(((size + zone - 1) / zone)) $open $active $append $block $((size >> 9)) zv-$name"
	got=$(guest 'cd /sys/block/vda; echo $(cat queue/{zoned,chunk_sectors,nr_zones,max_open_zones,max_active_zones,zone_append_max_bytes,logical_block_size} size serial)')
	assert_eq "what sysfs says of the disk" "$want" "$got"
	ok "sysfs shows what was created: $got"
	# QEMU's generic device passes every feature on, and Linux takes packed rings
	# where they are offered (bit 34).
	assert_eq "whether the guest uses packed rings" "$packed" "$(guest 'cut -c 35 /sys/block/vda/device/features')"
	ok "packed rings, as the guest's driver sees them: $packed"
}

# Every command of blkzone, and the errors that a guest can run into.
check_blkzone() {
	local first=$conventional i
	local bs=$((block / 512)) cap=$((capacity / 512))
	at() { echo "-o $(($1 * zone / 512)) -c 1 /dev/vda"; }
	zones_agree "of the new disk"
	put "$first" 0 4; zones_agree "after a write"; zone_is "$first" oi $((4 * bs))
	put "$first" 4 1; zones_agree "after a second write"; zone_is "$first" oi $((5 * bs))
	guest_fails 'Input/output error' "dd if=/dev/zero of=/dev/vda bs=$block count=1 seek=$((first * zone / block + 9)) oflag=direct conv=notrunc"
	zones_agree "after an unaligned write"; zone_is "$first" oi $((5 * bs))
	guest "blkzone close $(at "$first")"; zones_agree "after a close"; zone_is "$first" cl $((5 * bs))
	guest "blkzone open $(at "$first")"; zones_agree "after an open"; zone_is "$first" oe $((5 * bs))
	guest "blkzone finish $(at "$first")"; zones_agree "after a finish"; zone_is "$first" fu -
	guest_fails 'Input/output error' "dd if=/dev/zero of=/dev/vda bs=$block count=1 seek=$((first * zone / block + 5)) oflag=direct conv=notrunc"
	guest "blkzone reset $(at "$first")"; zones_agree "after a reset"; zone_is "$first" em 0
	guest "cmp -n $((5 * block)) /dev/zero <(dd if=/dev/vda bs=$block count=5 skip=$((first * zone / block)) iflag=direct status=none)"
	ok "write, close, open, finish, reset, and an unaligned write is refused"

	# To the capacity and not beyond.
	guest "dd if=/dev/urandom of=/dev/vda bs=1M count=$((capacity >> 20)) seek=$((first * zone >> 20)) oflag=direct conv=notrunc status=none"
	zones_agree "after filling a zone"; zone_is "$first" fu -
	# Behind the capacity, or on the last block where the zone has no more.
	guest_fails 'Input/output error' "dd if=/dev/zero of=/dev/vda bs=$block count=1 seek=$(((first * zone + (capacity < zone ? capacity : zone - block)) / block)) oflag=direct conv=notrunc"
	zones_agree "after a write past the capacity"; zone_is "$first" fu -
	guest "blkzone reset $(at "$first")"
	ok "a write past the capacity of $cap sectors is refused"

	for ((i = 0; i < open; i++)); do
		echo "blkzone open $(at $((first + i)))"
	done > opens
	guest "$(cat opens)"
	zones_agree "with $open open zones"; zone_is $((first + open - 1)) oe 0
	guest_fails "$too_many" "blkzone open $(at $((first + open)))"
	zones_agree "after one open zone too many"; zone_is $((first + open)) em 0
	guest 'blkzone reset /dev/vda'
	zones_agree "after a reset of all"; zone_is "$first" em 0
	ok "the open zone after number $open is refused: $too_many"

	if ((first > 0)); then
		put 0 7 3; put 0 2 1; zones_agree "after writes to a conventional zone"; zone_is 0 nw 0
		guest_fails '.' "blkzone open $(at 0)"
		ok "a conventional zone takes writes anywhere and no zone commands"
	fi
}

check_zonefs() {
	guest "mkzonefs -f -o perm=644 /dev/vda > /dev/null; mkdir -p /z; mount -t zonefs -o explicit-open /dev/vda /z
		cd /z/seq; [ \$(stat -c %s 0) = 0 ]
		for i in 1 2 3; do dd if=/dev/urandom of=0 bs=$block count=8 oflag=append,direct conv=notrunc status=none; done
		[ \$(stat -c %s 0) = $((24 * block)) ]
		dd if=/dev/zero of=1 bs=$block count=1 oflag=append,direct conv=notrunc status=none
		truncate -s \$(((\$(stat -c %b 1) * 512))) 1"
	zones_agree "with files in zonefs"
	guest "cd /z/seq; ! dd if=/dev/zero of=0 bs=$block count=1 seek=100 oflag=direct conv=notrunc status=none
		sha256sum 0 > /tmp/z.sum; cd /; umount /z; mount -t zonefs /dev/vda /z; cd /z/seq; sha256sum --status -c /tmp/z.sum
		truncate -s 0 0; [ \$(stat -c %s 0) = 0 ]; cd /; umount /z; blkzone reset /dev/vda" > zonefs.log 2>&1 || die "zonefs: $(tail -n 5 zonefs.log)"
	zones_agree "after zonefs"
	ok "zonefs: append, finish by truncation, truncation to nothing, remount"
}

check_btrfs() {
	guest 'mkfs.btrfs -q -f -O zoned /dev/vda; mkdir -p /b; mount /dev/vda /b'
	zones_agree "after mkfs.btrfs"
	guest 'cd /b
		for i in 1 2 3 4; do (
			for j in 1 2 3 4 5 6; do dd if=/dev/urandom of=f$i.$j bs=64k count=$((4 * i + 3 * j)) conv=fsync status=none; done
		) & done; wait
		for f in f*; do [ -s $f ] || exit 1; done
		rm f1.1 f2.2; cp f3.3 g; sync
		sha256sum * > /tmp/b.sums; cp /tmp/b.sums sums
		cd /; umount /b; mount /dev/vda /b; cd /b; sha256sum --status -c sums; cd /
		btrfs scrub start -B /b > /tmp/scrub; grep -q "no errors found" /tmp/scrub || { cat /tmp/scrub; exit 1; }
		umount /b'
	zones_agree "after btrfs"
	cp guest.zones zones.before
	ok "btrfs: parallel writers, fsync, remount, scrub, $(guest 'wc -l < /tmp/b.sums') hashes"
}

# zoned_disk GEOMETRY MORE...   the whole course of one zoned disk; MORE goes to
# vm_start of the first guest
zoned_disk() {
	local name=$1 image=$VM_RUN/$1.zvh compared=0
	shift
	geometry "$name"
	step "a zoned disk: $block byte blocks, $conventional conventional zones, $queues queue(s)"
	"$zvhost" create "$image" --size "$size" --zone-size "$zone" --zone-capacity "$capacity" \
		--conventional "$conventional" --max-open "$open" --max-active "$active" \
		--max-append "$append" --block-size "$block" > create.log
	serve "$name" "$image" "$queues" "${rings[@]}"
	vm_start "$name" --zoned "$VM_RUN/$name.sock,$queues" "$@"
	check_sysfs
	check_blkzone
	check_zonefs
	check_btrfs
	if (($# > 0)); then check_ordinary; fi
	vm_sane
	vm_stop
	retire "$name" "$image"
	ok "power off, and the image is sound"

	serve "$name" "$image" "$queues" "${rings[@]}"
	vm_start "$name" --zoned "$VM_RUN/$name.sock,$queues"
	zones_agree "after a restart of guest and daemon"
	cmp -s guest.zones zones.before || die "zones changed over the restart: $(diff zones.before guest.zones | head -n 6)"
	guest 'mkdir -p /b; mount /dev/vda /b; cd /b; sha256sum --status -c sums; echo more > more; sync; cd /; umount /b'
	zones_agree "after btrfs went on"
	vm_sane
	vm_stop
	retire "$name" "$image"
	ok "zones, file system and hashes are as they were; $compared zone reports compared"
}

# The ordinary disk is /dev/vdb of the guest that has it.
check_ordinary() {
	step "an ordinary disk, through vhost-user-blk-pci"
	guest '[ $(cat /sys/block/vdb/queue/zoned) = none ]; mkfs.ext4 -q /dev/vdb; mkdir -p /e; mount /dev/vdb /e; cd /e
		for i in 1 2 3 4; do (dd if=/dev/urandom of=f$i bs=1M count=$((4 * i)) conv=fsync status=none) & done; wait
		sha256sum f* > sums; cd /; umount /e; mount /dev/vdb /e; cd /e; sha256sum --status -c sums'
	local before after
	before=$(stat -c %b disk.raw)
	guest 'cd /e; rm f4; sync; fstrim /e; sha256sum --status -c <(grep -v " f4\$" sums); cd /; umount /e; e2fsck -fn /dev/vdb > /dev/null'
	after=$(stat -c %b disk.raw)
	((after + (12 << 11) < before)) || die "fstrim gave back $(((before - after) >> 11)) MiB of the 16 MiB that were freed"
	ok "ext4: writers, remount, hashes, fsck; fstrim gave back $(((before - after) >> 11)) MiB"

	truncate -s 384M disk.raw
	assert_match "zvhost resize" '384 MiB \(before: 256 MiB\), reported to the guest' "$("$zvhost" resize "$VM_RUN/ordinary.control")"
	guest 'grown() { [ $(cat /sys/block/vdb/size) = 786432 ]; }; await 120 "the new size" grown; mount /dev/vdb /e; cd /e; sha256sum --status -c <(grep -v " f4\$" sums); cd /; umount /e
		dd if=/dev/urandom of=/tmp/more bs=1M count=8 status=none
		dd if=/tmp/more of=/dev/vdb bs=1M seek=376 oflag=direct conv=notrunc status=none
		cmp /tmp/more <(dd if=/dev/vdb bs=1M skip=376 iflag=direct status=none)'
	ok "the disk grew to 384 MiB under the running guest, which uses what is new"
}

# A front-end that hides ZONED must get errors, never a disk without zones.
zoned_refused() {
	step "a zoned disk behind a front-end that hides zones"
	"$zvhost" create r.zvh --size 64M --zone-size 4M > create.log
	serve refused r.zvh 1
	vm_start refused --disk "$VM_RUN/refused.sock"
	guest_fails 'Input/output error' 'dd if=/dev/vda of=/dev/null bs=4096 count=1 iflag=direct || { lsblk /dev/vda || echo "no disk: Input/output error"; exit 1; }'
	await 120 "the daemon's word on it" run_says refused 'does not take VIRTIO_BLK_F_ZONED'
	vm_kill
	retire refused r.zvh
	ok "refused, with a log line that says what to use instead"
}

truncate -s 256M disk.raw
serve ordinary disk.raw 2 --control-path "$VM_RUN/ordinary.control"
zoned_disk small --disk "$VM_RUN/ordinary.sock,2"
retire ordinary disk.raw
zoned_disk large
zoned_refused
