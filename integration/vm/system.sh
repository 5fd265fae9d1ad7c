# shellcheck shell=bash disable=SC2034
# Finds which parts of a VM this machine has itself, good enough to be used as
# they are. Sourced, never run. ZVHOST_VM_SYSTEM=no in the environment says to
# use none of them, for runs that must not depend on the machine.

# What must be in the guest. initramfs.sh copies these; a machine's own tools
# are used only if all of them are there, so that tests see one set or the other.
GUEST_TOOLS=(bash busybox blkzone blkdiscard blkid fstrim mount umount findmnt
	lsblk losetup wipefs dmesg flock btrfs mkfs.btrfs mkzonefs zbd dmsetup
	mkfs.ext4 e2fsck dumpe2fs mkfs.f2fs fsck.f2fs mkfs.xfs xfs_io xfs_repair
	kmod modprobe strace fio
	cat chmod cp cut date dd df du env head ln ls mkdir mv od printf readlink
	rm seq sha256sum shuf sleep sort split stat sync tail tee timeout touch
	truncate wc cmp diff grep sed)

# Modules without which a guest is of no use; the others are taken if there.
GUEST_MODULES_NEEDED=(virtio_pci virtio_blk virtio_console btrfs zonefs ext4 null_blk)
GUEST_MODULES_WANTED=(f2fs xfs loop vduse virtio_vdpa scsi_debug sd_mod nvme ublk_drv dm-mod
	dm-zoned dm-flakey dm-log-writes dm-linear crc32c-intel mq-deadline)

system_allowed() { [[ ${ZVHOST_VM_SYSTEM:-yes} != no ]]; }

# system_qemu: prints the version of the machine's own QEMU if it has the device
# that shows zoned disks, and the tools that come with it.
system_qemu() {
	local version tool
	system_allowed || return 1
	for tool in qemu-system-x86_64 qemu-storage-daemon qemu-img; do
		command -v "$tool" >/dev/null || return 1
	done
	version=$(qemu-system-x86_64 --version | sed -n 's/^QEMU emulator version \([0-9.]*\).*/\1/p')
	at_least "${version:-0}" "$VM_QEMU_MIN" || return 1
	qemu-system-x86_64 -device help 2>/dev/null | grep '"vhost-user-test-device-pci"' >/dev/null || return 1
	printf '%s\n' "$version"
}

# system_kernel: prints the release of the newest kernel of this machine that a
# guest can run: readable, new enough, with zoned block devices and the modules.
system_kernel() {
	local config release module
	system_allowed || return 1
	while read -r release; do
		config=/boot/config-$release
		at_least "$release" "$VM_KERNEL_MIN" || continue
		[[ -r /boot/vmlinuz-$release && -r $config && -r /lib/modules/$release/modules.dep ]] || continue
		grep -q '^CONFIG_BLK_DEV_ZONED=y' "$config" || continue
		for module in "${GUEST_MODULES_NEEDED[@]}"; do
			grep -q "/${module/-/[-_]}\.ko" "/lib/modules/$release/modules.dep" \
				"/lib/modules/$release/modules.builtin" || continue 2
		done
		printf '%s\n' "$release"
		return 0
	done < <(find /boot -maxdepth 1 -name 'vmlinuz-*' -printf '%f\n' 2>/dev/null |
		sed 's/^vmlinuz-//' | sort -rV)
	return 1
}

# system_tools: true if this machine has every guest tool.
system_tools() {
	local tool
	system_allowed || return 1
	for tool in "${GUEST_TOOLS[@]}"; do
		PATH=$PATH:/usr/sbin:/sbin type -P "$tool" >/dev/null || return 1
	done
	# Other parts of the guest's init count on its being one static file.
	! ldd "$(type -P busybox)" >/dev/null 2>&1
}

# system_helpers: true if this machine has what else fetch.sh provides or needs:
# a systemd-analyze that can judge a unit file (security --offline, 250), and
# what initramfs.sh runs. A cached root's are preferred, for the same verdicts
# everywhere; these do when no root is needed otherwise.
system_helpers() {
	local version
	command -v zstd >/dev/null && command -v kmod >/dev/null || return 1
	version=$(systemd-analyze --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
	((${version:-0} >= 250))
}
