#!/usr/bin/env bash
# The smallest disks that Linux takes, and secure erase by blkdiscard, in one guest.
#
#   integration/guests/small.sh [ZVHOST]
set -euo pipefail
# shellcheck source=integration/guests/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# NAME SIZE ZONE BLOCK, in bytes: one zone of one block, zones of one sector, …
disks=(
	'a  4096  4096  512'
	'b  4096  4096 4096'
	'c 65536 65536 4096'
	'd 32768  4096  512'
	'e  8192  4096 4096'
	'f  2560   512  512'
	'g  6144  4096  512' # a smaller last zone
)
step "the smallest disks"
arguments=()
for disk in "${disks[@]}"; do
	read -r name size zone block <<<"$disk"
	create "$name" --size "$size" --zone-size "$zone" --block-size "$block"
	serve "$name" 1
	arguments+=(--zoned "$VM_RUN/$name.sock")
done
create erase --size 64M --zone-size 4M --conventional 2 --max-active 6
serve erase 1
vm_start small "${arguments[@]}" --zoned "$VM_RUN/erase.sock"

for disk in "${disks[@]}"; do
	read -r name size zone block <<<"$disk"
	assert_eq "zones of disk $name" $(((size + zone - 1) / zone)) "$(guest "cat /sys/block/vd$name/queue/nr_zones")"
	same_zones "$name" "$name.zvh" "when it is new"
	guest "dd if=/dev/urandom of=/dev/vd$name bs=$block oflag=direct conv=notrunc status=none 2>full || grep -q 'No space' full"
	assert_eq "full zones of disk $name" $(((size + zone - 1) / zone)) "$(guest "blkzone report /dev/vd$name | grep -c '(fu)'")"
	same_zones "$name" "$name.zvh" "when it is full"
	guest "blkzone reset /dev/vd$name"
	assert_eq "empty zones of disk $name" $(((size + zone - 1) / zone)) "$(guest "blkzone report /dev/vd$name | grep -c '(em)'")"
done
ok "${#disks[@]} disks of one zone to eight, down to zones of 512 bytes: written full, reset, reported alike"

step "secure erase"
guest 'for zone in 2 3 5; do dd if=/dev/urandom of=/dev/vdh bs=64k count=4 seek=$((zone * 64)) oflag=direct conv=notrunc status=none; done
	blkdiscard --secure --offset 8388608 --length 8388608 /dev/vdh'
same_zones h erase.zvh "after a secure erase"
assert_eq "zones that are written" 1 "$("$zvhost" report erase.zvh | grep -c '(oi)')"
assert_eq "bytes that are left in the image of what was erased" 0 "$(dd if=erase.zvh bs=1M skip=$((1 + 8)) count=8 status=none | tr -d '\0' | wc -c)"
guest_fails 'Input/output error' 'blkdiscard --secure --offset 0 --length 4194304 /dev/vdh'       # conventional
guest_fails 'Input/output error' 'blkdiscard --secure --offset 20971520 --length 65536 /dev/vdh' # not a whole zone
same_zones h erase.zvh "after those that are refused"
ok "blkdiscard --secure empties the zones it names and the image of them, and nothing else"
vm_sane
vm_stop
for disk in "${disks[@]}"; do retire "${disk%% *}"; done
retire erase
ok "all images are sound"
