#!/usr/bin/env bash
# Zoned disks of all sorts in one guest: block size, a capacity below the zone's
# size, conventional zones, small limits, queues and a smaller last zone are
# crossed so that any two settings meet on some disk. Each goes through every
# operation in every zone state (integration/zonestates), through blkzone, and
# through the file systems that it has room for.
#
#   integration/guests/geometries.sh [ZVHOST]
set -euo pipefail
# shellcheck source=integration/guests/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# NAME BLOCK CAPACITY CONVENTIONAL OPEN ACTIVE QUEUES LAST FILE_SYSTEMS. Zones have
# 8 MiB; CAPACITY and LAST, the size of the last zone, are in MiB. btrfs wants 11
# active zones (and a few more, or it deadlocks with itself in a scrub: Linux 6.12,
# do_zone_finish within btrfs_inc_block_group_ro), f2fs 6 open ones, conventional
# zones for its metadata, and as much room behind the capacity of each zone.
disks=(
	'a  512 8  0 0  0  1 8 zonefs,btrfs'
	'b  512 8  0 3  5  4 4 zonefs'
	'c  512 6 12 0  0  1 4 zonefs,btrfs'
	'd  512 6 12 12 14 4 8 zonefs,btrfs,f2fs'
	'e 4096 8 12 0  0  4 8 zonefs,btrfs,f2fs'
	'f 4096 8 12 6  0  1 4 zonefs,btrfs,f2fs'
	'g 4096 6  0 0  0  4 4 zonefs,btrfs'
	'h 4096 6  0 2 20  1 8 zonefs,btrfs'
)
zones=64 # of each

step "${#disks[@]} zoned disks in one guest"
build zonestates integration/zonestates
arguments=()
for disk in "${disks[@]}"; do
	read -r name block capacity conventional open active queues last _ <<<"$disk"
	create "$name" --size $(((zones - 1) * 8 + last))M --zone-size 8M --zone-capacity "${capacity}M" --block-size "$block" \
		--conventional "$conventional" --max-open "$open" --max-active "$active" --read-only-zones 50 --offline-zones 51
	serve "$name" "$queues"
	arguments+=(--zoned "$VM_RUN/$name.sock,$queues")
done
vm_start geometries --cpus 4 "${arguments[@]}" --add "$VM_RUN/zonestates:/bin/" --add "$guests/filesystems.sh:/bin/"

# all_same WHEN: the guest's reports of all disks are the host's.
all_same() {
	local name
	for name in a b c d e f g h; do same_zones "$name" "$name.zvh" "$1"; done
}

guest 'for q in /sys/block/vd?/queue; do echo $(cat $q/{zoned,chunk_sectors,nr_zones,max_open_zones,max_active_zones,logical_block_size} $q/../size $q/../serial) $(ls $q/../mq | wc -l); done' >sysfs
for disk in "${disks[@]}"; do
	read -r name block capacity conventional open active queues last _ <<<"$disk"
	printf 'host-managed %d %d %d %d %d %d %s %d\n' 16384 $zones "$open" "$active" "$block" $((((zones - 1) * 8 + last) << 11)) "$name" "$queues"
done >sysfs.want
assert_eq "what sysfs says" "$(<sysfs.want)" "$(<sysfs)"
all_same "when they are new"
ok "sysfs and the first reports of all are as they were created"

# Two at a time, as most hosts of tests have two processors.
guest -t 720 'printf "%s\n" /dev/vd? | xargs -n 1 -P 2 zonestates' >states || die "$(<states)"
assert_eq "the disks that were tried" "${#disks[@]}" "$(grep -c 'operations tried' states)"
all_same "after every operation in every state"
ok "every operation in every zone state, in service and out of it, on each: $(awk '{ n += $2 } END { print n }' states) tried"

for name in a b c d e f g h; do "$zvhost" zone set-state "$VM_RUN/$name.control" 50,51 writable >/dev/null; done
guest 'for d in /dev/vd?; do
		blkzone reset -o 0xc8000 -c 4 $d
		blkzone open -o 0xc8000 -c 2 $d
		blkzone report -o 0xc8000 -c 2 $d | grep -c "(oe)" | grep -qx 2
		dd if=/dev/urandom of=$d bs=4096 count=3 seek=102400 oflag=direct conv=notrunc status=none
		blkzone close -o 0xc8000 -c 1 $d
		blkzone report -o 0xc8000 -c 1 $d | grep -q "wptr 0x000018 .*(cl)"
		blkzone close -o 0xcc000 -c 1 $d # empty again, for nothing was written
		if blkzone close -o 0xcc000 -c 1 $d 2>/dev/null; then exit 1; fi
		blkzone finish -o 0xc8000 -c 2 $d
		blkzone report -o 0xc8000 -c 2 $d | grep -c "(fu)" | grep -qx 2
		if blkzone open -o 0xc8000 -c 1 $d 2>/dev/null; then exit 1; fi
		blkzone reset -o 0xc8000 -c 2 $d
		blkzone report -o 0xc8000 -c 2 $d | grep -c "(em)" | grep -qx 2
	done'
all_same "after blkzone"
ok "blkzone on each, on zones that have come back into service"

for disk in "${disks[@]}"; do
	read -r name _ _ _ _ _ _ _ fs <<<"$disk"
	printf 'vd%s,%s\n' "$name" "$fs"
done >courses
guest_push courses /tmp/courses
guest -t 1200 'xargs -P 2 -n 1 filesystems.sh </tmp/courses' >filesystems || die "file systems: $(tail -n 15 filesystems)"
all_same "after the file systems"
for fs in zonefs btrfs f2fs; do
	on=$(grep -o "^vd. $fs:" filesystems | sed 's/^vd\(.\).*/\1/' | sort | paste -sd ' ')
	want=$(printf '%s\n' "${disks[@]}" | grep "[ ,]$fs" | cut -c 1 | paste -sd ' ')
	assert_eq "the disks that had $fs" "$want" "$on"
	ok "$fs on disks $on: writers, remount, hashes, its own check"
done
vm_sane
vm_stop
for disk in "${disks[@]}"; do retire "${disk%% *}"; done
ok "all images are sound"
