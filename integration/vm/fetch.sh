#!/usr/bin/env bash
# Makes sure that what a VM needs is there, and prints the folder it is in:
#
#   bin/qemu-system-x86_64, bin/qemu-storage-daemon, bin/qemu-img
#   bin/systemd-analyze       a recent one, whatever this machine has
#   bin/strace
#   kernel, initrd            what a guest boots (initramfs.sh)
#   initrd.fio                to be added for guests that need fio
#   release                   the kernel's release
#
# This machine's own QEMU, kernel and tools are used where they are good enough
# (system.sh); the rest is fetched from Debian by way of this machine's apt
# (root.sh) into a cache that all clones share. Nothing is installed, and root
# is not needed. Progress goes to stderr.
#
#   ZVHOST_CACHE           the cache ($XDG_CACHE_HOME/zvhost, ~/.cache/zvhost)
#   ZVHOST_DEBIAN_MIRROR   a Debian mirror, if not the one that apt uses
#   ZVHOST_VM_SYSTEM=no    use nothing of this machine's own
#
# A folder of the cache is named after a hash of all that went into it, so
# clones of different age do not rebuild each other's. It is made under another
# name and renamed when it is whole: an interrupted run leaves nothing half, and
# the packages that it did fetch are kept for the next one.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$VM_SRC/progress.sh"
. "$VM_SRC/system.sh"

if [[ $# -gt 0 ]]; then
	err "takes no arguments; its settings are in the environment, see the head of $0"
	exit 2
fi
if [[ $(uname -sm) != "Linux x86_64" ]]; then
	err "runs on x86-64 Linux only, this is $(uname -sm): the guests are x86-64"
	exit 1
fi

# Which packages are wanted depends on which parts the machine has. base-files
# brings the folders, zstd and kmod are for initramfs.sh.
qemu=$(system_qemu) || qemu=
release=$(system_kernel) || release=
tools=
if system_tools; then tools=yes; fi
packages=()
if [[ ! $qemu || ! $release || ! $tools ]] || ! system_helpers; then
	packages=(base-files busybox-static kmod systemd zstd)
fi
if [[ ! $qemu ]]; then packages+=(qemu-system-x86 qemu-utils); fi
if [[ ! $release ]]; then packages+=(linux-image-amd64); fi
if [[ ! $tools ]]; then
	packages+=(bash btrfs-progs coreutils diffutils dmsetup e2fsprogs f2fs-tools fio grep
		libgcc-s1 mount sed strace util-linux xfsprogs zbd-utils zonefs-tools)
fi

hash() { sha256sum | cut -c 1-12; }
root=$VM_CACHE/root-$({
	echo "$VM_SUITE $VM_BACKPORTS ${packages[*]}"
	cat "$VM_SRC/root.sh" "$VM_SRC/unpack.sh"
} | hash)
vm=$VM_CACHE/vm-$({
	echo "$root qemu=$qemu kernel=$release tools=$tools"
	cat "$VM_SRC"/{fetch,initramfs,system,common}.sh "$VM_SRC"/guest/*
} | hash)

# The usual case: all is there. The touch says so to the clean-up below.
if [[ -e $root && -e $vm/release ]]; then
	touch -c "$root" "$vm"
	printf '%s\n' "$vm"
	exit 0
fi

mkdir -p "$VM_CACHE"
exec 9>"$VM_CACHE/lock"
if ! flock -n 9; then
	err "another run is filling $VM_CACHE, waiting for it"
	flock 9
fi
# Nobody else is at work, so what is unfinished is left over from a killed run.
rm -rf "$VM_CACHE"/tmp.*
trap 'progress_clear; rm -rf "$VM_CACHE"/tmp.*' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

started=$EPOCHSECONDS
if ((${#packages[@]} == 0)); then
	mkdir -p "$root" # nothing is missing
	progress_steps 1
elif [[ ! -e $root ]]; then
	need=$((2 * 1024 * 1024)) # KiB: packages, what is unpacked, and the guest
	free=$(df --output=avail -k "$VM_CACHE" | tail -n 1)
	if ((free < need)); then
		err "$VM_CACHE has $((free / 1024)) MB free and 2 GB are needed: free some, or set ZVHOST_CACHE to a folder elsewhere"
		exit 1
	fi
	for tool in apt-get dpkg-deb; do
		if ! command -v "$tool" >/dev/null; then
			err "$tool is missing: the VM's parts are Debian packages; run this on Debian or a relative of it, or install QEMU >= $VM_QEMU_MIN, Linux >= $VM_KERNEL_MIN and the guest tools in system.sh"
			exit 1
		fi
	done
	progress_steps 4
	PROGRESS_TOTAL=4 "$VM_SRC/root.sh" "$VM_CACHE/tmp.root" "$VM_CACHE/debs" "${packages[@]}"
	progress_now=3
	mv "$VM_CACHE/tmp.root" "$root"
	rm -rf "$VM_CACHE/debs"
else
	progress_steps 1
fi

if [[ ! -e $vm/release ]]; then
	progress_step "making the guest's initramfs"
	tmp=$VM_CACHE/tmp.vm
	mkdir -p "$tmp/bin"
	ln -s "../${root##*/}" "$tmp/root"
	# Each program is a script that finds the root beside it, so that it can be
	# called from anywhere, by people too.
	#   wrap PROGRAM [ARGUMENTS [ENVIRONMENT]], both as shell text
	wrap() {
		root_exec "\$root" "$1"
		{
			# shellcheck disable=SC2016  # expanded when the script runs
			printf '#!/bin/sh\nroot=$(readlink -f "$(dirname "$(readlink -f "$0")")/../root")\n'
			printf '%s exec' "${3:-}"
			printf ' "%s"' "${ROOT_EXEC[@]}"
			printf ' %s "$@"\n' "${2:-}"
		} >"$tmp/bin/${1##*/}"
		chmod +x "$tmp/bin/${1##*/}"
	}
	if [[ $qemu ]]; then
		for program in qemu-system-x86_64 qemu-storage-daemon qemu-img; do
			ln -s "$(command -v "$program")" "$tmp/bin/$program"
		done
	else
		# Firmware and loadable modules are found by absolute paths otherwise.
		modules="QEMU_MODULE_DIR=\$root/usr/lib/x86_64-linux-gnu/qemu"
		wrap usr/bin/qemu-system-x86_64 \
			"-L \"\$root/usr/share/qemu\" -L \"\$root/usr/share/seabios\"" "$modules"
		wrap usr/bin/qemu-storage-daemon "" "$modules"
		wrap usr/bin/qemu-img "" "$modules"
		if ! "$tmp/bin/qemu-system-x86_64" -device help 2>&1 | grep '"vhost-user-test-device-pci"' >/dev/null; then
			err "the fetched QEMU has no vhost-user-test-device-pci: $VM_BACKPORTS must have QEMU >= $VM_QEMU_MIN"
			exit 1
		fi
	fi
	if ((${#packages[@]} == 0)); then
		ln -s "$(command -v systemd-analyze)" "$tmp/bin/systemd-analyze"
	else
		# The units that others refer to (sysinit.target …) come from the same
		# version. Aliases are left out: systemd finds symbolic links suspicious
		# that lead to a folder which is not one of its own, and says so at length.
		mkdir "$tmp/units"
		find "$root/usr/lib/systemd/system" -maxdepth 1 -type f -exec cp -t "$tmp/units" {} +
		wrap usr/bin/systemd-analyze "" "SYSTEMD_UNIT_PATH=\${SYSTEMD_UNIT_PATH:-\${0%/*}/../units}"
	fi

	if [[ $tools ]]; then ln -s "$(command -v strace)" "$tmp/bin/strace"; else wrap usr/bin/strace; fi

	# For whoever adds files to a guest (guest.sh): most machines have no cpio.
	if [[ $tools ]]; then busybox=$(command -v busybox); else busybox=../root/usr/bin/busybox; fi
	ln -s "$busybox" "$tmp/bin/cpio"

	kernel_root=/ tools_root=/
	if [[ ! $release ]]; then
		kernel_root=$root
		release=$(find "$root/usr/lib/modules" -mindepth 1 -maxdepth 1 -printf '%f\n')
	fi
	if [[ ! $tools ]]; then tools_root=$root; fi
	"$VM_SRC/initramfs.sh" "$tmp" "$release" "$kernel_root" "$tools_root"
	printf '%s\n' "$release" >"$tmp/release"
	mv "$tmp" "$vm"
fi

# What no clone has used for a month goes. (A folder fresh out of a package is
# as old as the package says, hence the touch.)
touch -c "$root" "$vm"
find "$VM_CACHE" -mindepth 1 -maxdepth 1 \( -name 'root-*' -o -name 'vm-*' \) -mtime +30 -exec rm -rf {} +
progress_clear
printf '      ready after %d s: %s, Linux %s\n' "$((EPOCHSECONDS - started))" \
	"$("$vm/bin/qemu-system-x86_64" --version | head -n 1)" "$(<"$vm/release")" >&2
printf '%s\n' "$vm"
