#!/usr/bin/env bash
# The daemon is killed again and again while guests work, and they notice nothing:
# btrfs on a zoned disk behind QEMU's generic device, which cannot reconnect, under
# a keeper; and ext4 on an ordinary disk behind vhost-user-blk-pci, which connects
# anew with the record of what was in flight (docs/restart.md).
#
#   integration/guests/restart.sh [ZVHOST [KILLS]]
set -euo pipefail
# shellcheck source=integration/guests/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
kills=${2:-20}

# has_child NAME [NOT]   whether the keeper NAME has a child that serves, other than
# the process NOT; sets child to its number.
has_child() {
	local all pid
	child=
	all=$(cat /proc/"${_run_pid[$1]}"/task/*/children 2>/dev/null) || true
	for pid in $all; do
		[[ $(cat "/proc/$pid/comm" 2>/dev/null) == zvhost-leftover ]] || child=$pid
	done
	[[ $child && $child != "${2:-}" && $(readlink "/proc/$child/exe") == "$zvhost" ]]
}
until_child() { await 120 "a daemon under the keeper $1" has_child "$@"; }

# unhurt WHAT   the guest's kernel has seen no I/O error
unhurt() {
	local bad
	bad=$(vm_dmesg "$1" | grep -iE 'I/O error|blk_update|critical|zone.*error' | head -n 3 || true)
	[[ ! $bad ]] || die "the guest noticed: $bad"
	vm_sane "$1"
}

# Four writers that write files, delete some and note the hashes of the others,
# until /stop is there.
writers='
	mkdir -p /sums
	for i in 1 2 3 4; do (
		n=0
		while [[ ! -e /stop ]]; do
			n=$((n + 1))
			dd if=/dev/urandom of=/x/f$i.$n bs=64k count=$((1 + n * 7 % 23)) conv=fsync status=none || { touch /failed; exit; }
			sha256sum /x/f$i.$n >/sums/$i.$n
			if ((n % 3 == 0)); then rm /x/f$i.$((n - 2)) /sums/$i.$((n - 2)); fi
			if ((n > 60)); then rm -f /x/f$i.$((n - 60)) /sums/$i.$((n - 60)); fi
		done
		echo $n >/count.$i
	) & done >/dev/null 2>&1'
settle='
	touch /stop
	ended() { [[ -e /failed || ( -e /count.1 && -e /count.2 && -e /count.3 && -e /count.4 ) ]]; }
	await 280 "the writers" ended
	[[ ! -e /failed ]]
	sync; echo 3 >/proc/sys/vm/drop_caches
	cat /sums/* | sha256sum --status -c -
	cat /count.* | awk "{ n += \$1 } END { print n }"'

step "btrfs on a zoned disk, the daemon killed $kills times under a keeper"
create z --size 2G --zone-size 16M --zone-capacity 12M --max-open 14 --max-active 16
run_start z "$zvhost" keeper -- "$zvhost" serve --socket-path "$VM_RUN/z.sock" --blk-file "$VM_RUN/z.zvh" --queues 2
await 120 "the socket" test -S "$VM_RUN/z.sock"
vm_start btrfs --zoned "$VM_RUN/z.sock,2"
guest 'mkfs.btrfs -q -f -d single -m single /dev/vda; mkdir /x; mount -t btrfs /dev/vda /x'
guest "$writers"
for ((i = 0; i < kills; i++)); do
	sleep "0.$((RANDOM % 10))$((RANDOM % 10))"
	until_child z
	kill -s KILL "$child"
done
files=$(guest -t 600 "$settle")
guest -t 300 'btrfs scrub start -B /x >/tmp/scrub 2>&1 || { cat /tmp/scrub; exit 1; }; grep -q "no errors found" /tmp/scrub
	cd /; umount /x; btrfs check /dev/vda >/tmp/check 2>&1 || { tail -n 20 /tmp/check; exit 1; }'
guest 'blkzone report /dev/vda' >guest.zones
"$zvhost" report "$VM_RUN/z.zvh" >host.zones
diff guest.zones host.zones >zones.diff || die "zones (guest <, host >): $(head -n 6 zones.diff)"
unhurt btrfs
ok "$files files written while it was killed $kills times: hashes, scrub, btrfs check, zones, dmesg"

step "the daemon is replaced while the guest writes"
guest 'rm -rf /stop /sums /count.*; mount -t btrfs /dev/vda /x; rm -f /x/*'
guest "$writers"
for ((i = 0; i < 5; i++)); do
	sleep 0.5
	until_child z
	was=$child
	kill -s HUP "${_run_pid[z]}"
	until_child z "$was"
done
files=$(guest -t 600 "$settle")
guest 'umount /x'
unhurt btrfs
vm_stop btrfs
run_stop z || die "the keeper ended with status $?"
"$zvhost" check "$VM_RUN/z.zvh" >check.log || die "check: $(<check.log)"
ok "$files files written while it was replaced 5 times"

step "ext4 on an ordinary disk, the daemon killed $kills times, QEMU reconnects"
truncate -s 1G disk.raw
plain() {
	rm -f p.sock # the last one's
	: >p.log
	run_start p "$zvhost" serve --socket-path "$VM_RUN/p.sock" --blk-file "$VM_RUN/disk.raw" --queues 2
	await 120 "the socket" test -S "$VM_RUN/p.sock"
}
plain
vm_start ext4 --disk "$VM_RUN/p.sock,2" --reconnect 100
guest 'mkfs.ext4 -q /dev/vda; mkdir /x; mount -t ext4 /dev/vda /x'
guest "$writers"
for ((i = 0; i < kills; i++)); do
	sleep "0.$((5 + RANDOM % 5))$((RANDOM % 10))"
	run_stop p KILL 2>/dev/null || true
	plain
	await 120 "the front-end" run_says p "took features"
done
files=$(guest -t 600 "$settle")
guest 'umount /x; e2fsck -fn /dev/vda >/tmp/fsck 2>&1 || { cat /tmp/fsck; exit 1; }'
unhurt ext4
vm_stop ext4
run_stop p || die "the daemon ended with status $?"
ok "$files files written while it was killed $kills times: hashes, e2fsck, dmesg"
