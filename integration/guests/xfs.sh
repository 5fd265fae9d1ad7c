#!/usr/bin/env bash
# XFS on a zoned disk: it appends its data, and refuses to mount when a zone's
# write pointer is not where it must be. It takes a newer kernel and newer tools
# than the other tests have (integration/vm/newest.sh).
#
#   integration/guests/xfs.sh [ZVHOST]
set -euo pipefail
# shellcheck source=integration/guests/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

newest=$("$guests/../vm/newest.sh")
step "XFS on a zoned disk, Linux $(<"$newest/release")"
# Metadata and log are in the conventional zones; XFS wants 300 MiB of them. Zones
# are as large as their capacity: where they are not, mkfs.xfs 7.2 takes so much
# less of the conventional ones than there is, and the kernel finds no zone where
# it is told to look (on null_blk just so).
create x --size 3G --zone-size 32M --conventional 12 --max-open 14 --block-size 4096
serve x 2
boot() { vm_start "$1" --kernel "$newest" --zoned "$VM_RUN/x.sock,2"; }

boot xfs
guest 'mkfs.xfs -q -f -r zoned=1 /dev/vda; mkdir /x; mount -t xfs /dev/vda /x'
same_zones a x.zvh "after mkfs.xfs"
guest 'cd /x
	for i in 1 2 3 4; do (
		for j in 1 2 3; do dd if=/dev/urandom of=f$i.$j bs=256k count=$((5 * i + 9 * j)) conv=fsync status=none; done
	) & done; wait
	rm f1.1 f2.2
	# Written over, which goes to another zone.
	dd if=/dev/urandom of=f3.3 bs=64k count=9 seek=3 conv=notrunc,fsync status=none
	sync; sha256sum -- * >/tmp/sums; cp /tmp/sums sums; sync
	cd /; umount /x; mount -t xfs /dev/vda /x
	cd /x; sha256sum --status -c sums; cd /; umount /x'
same_zones a x.zvh "after files and a remount"
guest 'xfs_repair -n /dev/vda >/tmp/repair 2>&1 || { tail -n 20 /tmp/repair; exit 1; }'
used=$(grep -c 'zcond: *\(2(oi)\|4(cl)\|14(fu)\)' guest.zones || true)
((used > 0)) || die "no sequential zone was written: $(head -n 3 guest.zones)"
ok "writers, files written over, remount, hashes, xfs_repair; $used sequential zones in use"

# The guest's power goes while it writes. Everything synced is there.
guest 'mount -t xfs /dev/vda /x; dd if=/dev/urandom of=/x/synced bs=1M count=5 conv=fsync status=none
	cd /x; sha256sum synced >/tmp/synced; cat /tmp/synced' >synced
guest 'cd /x; (while :; do dd if=/dev/urandom of=burst bs=1M count=8 status=none; done) >/dev/null 2>&1 & await 120 "the burst" test -s burst'
vm_kill
run_stop x KILL || true
serve x 2
boot again
guest_push synced /tmp/synced
guest 'mkdir /x; mount -t xfs /dev/vda /x; cd /x; sha256sum --status -c sums; sha256sum --status -c /tmp/synced
	echo more >more; sync; cd /; umount /x
	xfs_repair -n /dev/vda >/tmp/repair 2>&1 || { tail -n 20 /tmp/repair; exit 1; }'
same_zones a x.zvh "after guest and daemon were killed"
vm_sane
vm_stop
retire x
ok "guest and daemon killed while it wrote: mounted again, what was synced is there, xfs_repair, image sound"
