#!/usr/bin/env bash
# Disks behind QEMU's vfio-user-pci: the guest sees a virtio-blk PCI function with MSI-X.
# Firmware boots from an ordinary disk. A zoned disk's zones as blkzone and zvhost report them,
# btrfs over a rebind of the driver and a reboot, and an interrupt for a disk that has grown.
#
#   integration/guests/vfio.sh [ZVHOST]
set -euo pipefail
# shellcheck source=integration/guests/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

queues=4
device() { printf '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"%s"}%s}' "$VM_RUN/$1.sock" "${2:-}"; }

# serve_vfio NAME FILE QUEUES   a daemon for FILE on NAME.sock and NAME.control
serve_vfio() {
	run_start "$1" "$zvhost" serve --vfio-user "$VM_RUN/$1.sock" --control-path "$VM_RUN/$1.control" \
		--blk-file "$VM_RUN/$2" --queues "$3" --serial "$1" --debug
	await 120 "the socket of daemon $1" test -S "$VM_RUN/$1.sock"
}

step "firmware boots from an ordinary disk"
# A boot sector that has the firmware read the next sector (int 13h) and writes its text to the
# serial port.
truncate -s 64M plain.raw
printf '\xfc\x31\xc0\x8e\xd8\x8e\xc0\xb8\x01\x02\xbb\x00\x7e\xb9\x02\x00\x30\xf6\xcd\x13\xbe\x00\x7e\xba\xf8\x03\xac\x84\xc0\x74\x03\xee\xeb\xf8\xf4\xeb\xfd' |
	dd of=plain.raw conv=notrunc status=none
printf '\x55\xaa' | dd of=plain.raw bs=1 seek=510 conv=notrunc status=none
printf 'the second sector of the disk\n' | dd of=plain.raw bs=512 seek=1 conv=notrunc status=none
serve_vfio plain plain.raw 1
run_start firmware "$VM_DIR/bin/qemu-system-x86_64" -nodefaults -no-user-config -display none \
	-machine q35,memory-backend=mem -accel tcg -m 256M -object memory-backend-memfd,id=mem,size=256M,share=on \
	-chardev file,id=console,path="$VM_RUN/boot.log" -serial chardev:console -device "$(device plain ',"bootindex":0')"
await 120 "what the boot sector writes" grep -qs 'the second sector of the disk' boot.log
run_stop firmware || true # the status of a signal
ok "SeaBIOS boots from an ordinary disk behind vfio-user-pci"

step "a zoned disk and an ordinary one behind vfio-user-pci"
create zoned --size 512M --zone-size 16M --conventional 2 --max-open 12 --max-active 14
serve_vfio zoned zoned.zvh "$queues"
vm_start vfio --cpus "$queues" -- -action reboot=reset -device "$(device zoned)" -device "$(device plain)"

assert_eq "the zone model" host-managed "$(guest 'cat /sys/block/vda/queue/zoned')"
assert_eq "zones" 32 "$(guest 'cat /sys/block/vda/queue/nr_zones')"
assert_eq "serial" zoned "$(guest 'cat /sys/block/vda/serial')"
assert_eq "whether the guest uses packed rings" 1 "$(guest 'cut -c 35 /sys/block/vda/device/features')"
same_zones a zoned.zvh "when it is new"
# One vector for each queue and one for configuration changes; the ordinary disk has two.
assert_eq "vectors of the zoned disk" $((queues + 1)) "$(guest 'ls /sys/block/vda/device/../msi_irqs | wc -l')"
vectors() { guest "d=\$(basename \$(readlink /sys/block/vda/device)); grep -E \"MSI.* \$d-(config|req)\" /proc/interrupts" >interrupts; }
vectors
assert_eq "vectors in /proc/interrupts" $((queues + 1)) "$(wc -l <interrupts)"
for ((cpu = 0; cpu < queues; cpu++)); do
	guest "taskset -c $cpu dd if=/dev/vda of=/dev/null bs=64k count=8 iflag=direct status=none"
done
vectors
assert_eq "queues that have interrupted" "$queues" "$(grep -- -req interrupts | awk '{ n = 0; for (i = 2; i <= NF && $i ~ /^[0-9]+$/; i++) n += $i; if (n) print }' | wc -l)"
ok "vfio-user-pci: host-managed, packed rings, $((queues + 1)) MSI-X vectors, each queue interrupts"

step "blkzone"
guest 'dd if=/dev/urandom of=/dev/vda bs=64k count=4 seek=$((2 * 256)) oflag=direct conv=notrunc status=none'
same_zones a zoned.zvh "after a write"
guest_fails 'Input/output error' 'dd if=/dev/zero of=/dev/vda bs=64k count=1 seek=$((2 * 256 + 9)) oflag=direct conv=notrunc'
guest 'blkzone finish -o 65536 -c 1 /dev/vda; blkzone open -o 98304 -c 1 /dev/vda'
same_zones a zoned.zvh "after a finish and an open"
guest 'blkzone reset /dev/vda'
same_zones a zoned.zvh "after a reset"
ok "write, finish, open, reset, and an unaligned write is refused"

step "btrfs, the driver unbound and bound"
guest 'mkfs.btrfs -q -f -O zoned /dev/vda; mkdir -p /b; mount /dev/vda /b; cd /b
	for i in 1 2 3 4; do ( for j in 1 2 3; do dd if=/dev/urandom of=f$i.$j bs=64k count=$((8 * i + j)) conv=fsync status=none; done ) & done; wait
	sync; sha256sum f* >sums; cd /; umount /b; mount /dev/vda /b; cd /b; sha256sum --status -c sums; cd /; umount /b'
same_zones a zoned.zvh "with btrfs"
guest 'd=$(basename $(readlink /sys/block/vda/device)); cd /sys/bus/virtio/drivers/virtio_blk
	echo $d >unbind; [ ! -e /sys/block/vda ]; echo $d >bind
	for i in $(seq 600); do [ -e /sys/block/vda ] && break; sleep 0.1; done
	mount /dev/vda /b; cd /b; sha256sum --status -c sums; cd /; umount /b'
ok "btrfs made, written, remounted, verified, and verified again after the driver was unbound and bound"

step "the ordinary disk grows"
truncate -s 96M plain.raw
"$zvhost" resize "$VM_RUN/plain.control" >resize.log || die "resize: $(<resize.log)"
guest 'for i in $(seq 600); do [ "$(cat /sys/block/vdb/size)" = 196608 ] && break; sleep 0.1; done; [ "$(cat /sys/block/vdb/size)" = 196608 ]'
ok "a configuration interrupt: the guest sees the new size"
vm_sane

step "the guest reboots"
vm_reboot
same_zones a zoned.zvh "after a reboot"
guest 'mkdir -p /b; mount /dev/vda /b; cd /b; sha256sum --status -c sums; cd /; umount /b; [ "$(cat /sys/block/vdb/size)" = 196608 ]'
vm_sane
vm_stop
await 120 "the end of the client's session" run_says zoned 'front-end pid [0-9]*: left'
run_stop plain || die "daemon plain ended with status $?"
retire zoned
odd='refused (VERSION|DMA|DEVICE|REGION)|session ended'
! run_says zoned "$odd" || die "the daemon refused something: $(run_log zoned | grep -E "$odd" | head -n 3)"
ok "the guest finds the files after a reboot, and the image is sound"
