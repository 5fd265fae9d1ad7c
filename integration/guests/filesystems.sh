#!/usr/bin/bash
# Runs in a guest: takes one zoned disk through file systems, one after the other.
#
#   filesystems.sh DISK,FILE_SYSTEM...     such as: filesystems.sh vda,zonefs,btrfs,f2fs
#
# Each writes files from several processes, takes some away, is mounted anew, finds
# its files as they were and is checked by its own tool. Prints a line for each.
set -euo pipefail
IFS=, read -ra course <<<"$1"
disk=${course[0]} dev=/dev/${course[0]} at=/mnt/${course[0]}
queue=/sys/block/$disk/queue
zone=$(($(<"$queue/chunk_sectors") * 512))
mkdir -p "$at"

# files DIR: four writers at once, some syncing; then some files go, and the sums
# of those that stay are noted.
files() {
	cd "$1"
	local i j
	for i in 1 2 3 4; do
		(for j in 1 2; do dd if=/dev/urandom of="f$i.$j" bs=64k count=$((5 * i + 9 * j)) conv=fsync status=none; done) &
	done
	for i in 1 2 3 4; do wait -n; done
	rm f1.1 f2.2
	cp f4.2 g
	sync
	sha256sum -- * >"/tmp/$disk.sums"
	cd /
}

same() { (cd "$1" && sha256sum --status -c "/tmp/$disk.sums"); }

# One file for each zone: appends, a gap refused, finish and reset by truncation.
zonefs() {
	local block last capacity sum
	block=$(<"$queue/logical_block_size")
	mkzonefs -f -o perm=644 "$dev" >/dev/null
	mount -t zonefs -o explicit-open "$dev" "$at"
	last=$(($(find "$at/seq" -type f | wc -l) - 1))
	for file in 0 1 "$last"; do
		for _ in 1 2 3; do dd if=/dev/urandom of="$at/seq/$file" bs="$block" count=4 oflag=append,direct conv=notrunc status=none; done
		[[ $(stat -c %s "$at/seq/$file") == $((12 * block)) ]]
	done
	if dd if=/dev/zero of="$at/seq/1" bs="$block" count=1 seek=50 oflag=direct conv=notrunc status=none 2>/dev/null; then
		echo "a write with a gap is taken"
		return 1
	fi
	if [[ -e $at/cnv/0 ]]; then
		dd if=/dev/urandom of="$at/cnv/0" bs="$block" count=2 seek=9 oflag=direct conv=notrunc status=none
		dd if=/dev/urandom of="$at/cnv/0" bs="$block" count=2 oflag=direct conv=notrunc status=none
		sum=$(sha256sum <"$at/cnv/0")
	fi
	capacity=$(($(stat -c %b "$at/seq/$last") * 512))
	truncate -s "$capacity" "$at/seq/$last" # finishes it
	truncate -s 0 "$at/seq/1"               # resets it
	(cd "$at" && sha256sum seq/0 "seq/$last" >"/tmp/$disk.sums")
	umount "$at"
	mount -t zonefs "$dev" "$at"
	same "$at"
	[[ $(stat -c %s "$at/seq/1") == 0 && $(stat -c %s "$at/seq/$last") == "$capacity" ]]
	[[ ! -e $at/cnv/0 || $(sha256sum <"$at/cnv/0") == "$sum" ]]
	umount "$at"
}

btrfs_() {
	mkfs.btrfs -q -f -O zoned "$dev"
	mount -t btrfs "$dev" "$at"
	files "$at"
	umount "$at"
	mount -t btrfs "$dev" "$at"
	same "$at"
	btrfs scrub start -B "$at" >"/tmp/$disk.scrub" || true
	grep -q 'no errors found' "/tmp/$disk.scrub" || { cat "/tmp/$disk.scrub"; return 1; }
	umount "$at"
}

f2fs() {
	mkfs.f2fs -q -f -m "$dev" >"/tmp/$disk.mkfs" 2>&1 || { cat "/tmp/$disk.mkfs"; return 1; }
	mount -t f2fs "$dev" "$at"
	files "$at"
	umount "$at"
	mount -t f2fs "$dev" "$at"
	same "$at"
	umount "$at"
	fsck.f2fs --dry-run -f "$dev" >"/tmp/$disk.fsck" 2>&1 || true
	grep -q 'other corrupted bugs  *\[Ok' "/tmp/$disk.fsck"
	# fsck.f2fs 1.16 counts the segments behind a zone's capacity as free ones, on
	# null_blk just so.
	local known='^$' smaller
	# Counted, for grep -q would end at the first, and the pipe's writer by SIGPIPE: a failure
	# of the pipeline, now and then.
	smaller=$(blkzone report "$dev" | grep -v CONVENTIONAL | grep -cv "cap 0x00$(printf %04x $((zone / 512)))" || true)
	if ((smaller > 0)); then known='free segment_count matched'; fi
	if grep -iE '\[fail\]|ASSERT' "/tmp/$disk.fsck" | grep -v "$known"; then return 1; fi
}

for fs in "${course[@]:1}"; do
	case $fs in btrfs) btrfs_ ;; *) "$fs" ;; esac
	zones=$(blkzone report "$dev" | grep -cv '(em)\|(nw)' || true)
	printf '%s %s: %s zones of %s MiB in use\n' "$disk" "$fs" "$zones" $((zone >> 20))
	# Conventional zones have no reset; blkzone says so at the first.
	blkzone reset -o "$(blkzone report "$dev" | grep -v CONVENTIONAL | sed -n '1s/.*start: \(0x[0-9a-f]*\).*/\1/p')" "$dev"
	wipefs -aq "$dev" 2>/dev/null || true
done
