# shellcheck shell=bash disable=SC2034
# What fetch.sh and guest.sh and their parts share: where things are, and how an
# error is said. Sourced, never run (so its names are used elsewhere: SC2034).

VM_SRC=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)

# The cache is per user, not per clone: a second clone starts warm.
VM_CACHE=${ZVHOST_CACHE:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/zvhost}

# The packages come from these two Debian suites; the mirror is whatever the
# machine's own apt uses (mirrors.sh).
VM_SUITE=trixie
VM_BACKPORTS=trixie-backports

# Lowest versions that can do the job: QEMU 10.2 made
# vhost-user-test-device-pci user-creatable; Linux 6.12 is the kernel that the
# guest tests are written against.
VM_QEMU_MIN=10.2
VM_KERNEL_MIN=6.12

# err MESSAGE: says what is wrong, on one line, on stderr. It is not called
# "die": guest.sh has a die of its own, which also counts.
err() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# at_least VERSION MINIMUM: true when VERSION is MINIMUM or newer.
at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]; }

# root_exec ROOT PROGRAM [ARGV0]: sets ROOT_EXEC to the words that run a program
# of the cached root on this machine, without chroot, so that it sees the
# machine's sockets and files: the root's own dynamic loader is started and
# told where the root's libraries are. That works whatever libc the machine has.
# ceph/ and systemd/ hold private libraries that programs find by an absolute
# RUNPATH, which would point outside the root.
root_exec() {
	local root=$1 program=$2 lib=$1/usr/lib/x86_64-linux-gnu
	ROOT_EXEC=("$root/usr/lib64/ld-linux-x86-64.so.2"
		--argv0 "${3:-${program##*/}}"
		--library-path "$lib:$lib/systemd:$lib/ceph"
		"$root/$program")
}
