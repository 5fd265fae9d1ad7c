#!/usr/bin/env bash
# Makes what a guest boots: its kernel and its initramfs.
#
#   initramfs.sh FOLDER RELEASE KERNEL_ROOT TOOLS_ROOT
#
# RELEASE is the kernel's; KERNEL_ROOT has its boot/ and lib/modules/,
# TOOLS_ROOT the guest's programs; "/" is this machine, anything else a cached
# root. Written to FOLDER:
#
#   kernel       the kernel, unpacked if it can be booted like that
#   initrd       tools, modules, init and agent
#   initrd.fio   fio, which drags in 40 MB of libraries: added on request
#
# The figures behind the choices are in README.md in this folder.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$VM_SRC/system.sh"

out=$1 release=$2 kernel_root=${3%/} tools_root=${4%/}
work=$out/work
mkdir -p "$work"

# tool NAME: prints where a guest tool is, below TOOLS_ROOT.
tool() {
	local dir
	for dir in /usr/bin /usr/sbin /bin /sbin; do
		if [[ -x $tools_root$dir/$1 || -L $tools_root$dir/$1 ]]; then
			printf '%s\n' "$dir/$1"
			return
		fi
	done
	err "guest tool $1 is not in ${tools_root:-this machine}"
	return 1
}

# libraries PATH: prints the shared libraries of a program, below TOOLS_ROOT.
libraries() {
	local ROOT_EXEC=()
	if [[ $tools_root ]]; then
		root_exec "$tools_root" "$1"
		# The loader lists instead of running when asked to; a static program
		# and a script have nothing to list, which it finds out first.
		if "${ROOT_EXEC[0]}" --verify "$tools_root$1" 2>/dev/null; then
			"${ROOT_EXEC[0]}" "${ROOT_EXEC[@]:3:2}" --list "$tools_root$1"
		fi
	else
		ldd "$1" 2>/dev/null
	fi | awk -v root="$tools_root" '
		{ path = $2 == "=>" ? $3 : $1 }
		index(path, root "/") == 1 { print substr(path, length(root) + 1) }'
}

# copy TREE PATH [HAVE]: copies one file of TOOLS_ROOT to the same place in TREE,
# unless it is in the tree HAVE already.
copy() {
	local tree=$1 path=$2
	if [[ -e $tree$path || (${3:-} && -e $3$path) ]]; then return; fi
	mkdir -p "$tree${path%/*}"
	cp -L "$tools_root$path" "$tree$path"
}

# add TREE NAME [HAVE]: a tool with its libraries and, if it is a link to
# another program, the link.
add() {
	local tree=$1 path target library
	path=$(tool "$2")
	if [[ -L $tools_root$path && $(readlink "$tools_root$path") != /etc/alternatives/* ]]; then
		target=$(tool "$(basename "$(readlink "$tools_root$path")")")
		mkdir -p "$tree${path%/*}"
		if [[ ! -e $tree$path && $target != "$path" ]]; then ln -s "$target" "$tree$path"; fi
		path=$target
	fi
	copy "$tree" "$path" "${3:-}"
	for library in $(libraries "$path"); do copy "$tree" "$library" "${3:-}"; done
}

# skeleton TREE: the folders, with /bin and its like as links into /usr, so that
# a path means the same here as in any Debian of today.
skeleton() {
	mkdir -p "$1"/usr/{bin,sbin,lib,lib64} "$1"/{dev,etc,proc,sys,run,tmp,mnt,root}
	ln -s usr/bin "$1/bin"
	ln -s usr/sbin "$1/sbin"
	ln -s usr/lib "$1/lib"
	ln -s usr/lib64 "$1/lib64"
}

# pack TREE FILE: an uncompressed cpio. The guest unpacks it while it boots, and
# under TCG a decompressor costs more than the bytes it saves (README.md).
pack() { (cd "$1" && find . | sort | "$busybox" cpio -o -H newc -R 0:0 2>/dev/null) >"$2"; }

# unpack_module FILE: its contents, decompressed here so that the guest need not.
unpack_module() {
	case $1 in
	*.xz) "$busybox" xz -dc "$1" ;;
	*.gz) "$busybox" gzip -dc "$1" ;;
	*.zst) "${zstd[@]}" -dcq "$1" ;;
	*) cat "$1" ;;
	esac
}

busybox=$tools_root$(tool busybox)
# kmod and zstd as they can be run here: out of the root, or the machine's own.
# The kernel may come from a root while the tools are the machine's, and the
# other way round.
run_root=${tools_root:-$kernel_root}
if [[ $run_root ]]; then
	root_exec "$run_root" usr/bin/zstd
	zstd=("${ROOT_EXEC[@]}")
	root_exec "$run_root" usr/bin/kmod depmod
	depmod=("${ROOT_EXEC[@]}")
	root_exec "$run_root" usr/bin/kmod modprobe
	modprobe=("${ROOT_EXEC[@]}")
else
	zstd=(zstd) depmod=(depmod) modprobe=(modprobe)
fi

# --- the kernel
# A guest boots 1.5 s faster from the unpacked kernel (PVH entry) than from the
# bzImage, which would decompress itself under TCG. It is the same kernel: the
# bytes that the bzImage carries, as its header says where.
kernel=$kernel_root/boot/vmlinuz-$release
number() { od -An -t u4 -j "$1" -N "$2" "$kernel" | tr -d ' '; }
offset=$((($(od -An -t u1 -j $((0x1f1)) -N 1 "$kernel") + 1) * 512 + $(number $((0x248)) 4)))
length=$(($(number $((0x24c)) 4) - 4)) # the last 4 bytes are the unpacked size
if grep -q '^CONFIG_PVH=y' "$kernel_root/boot/config-$release" &&
	grep -q '^CONFIG_KERNEL_ZSTD=y' "$kernel_root/boot/config-$release" &&
	dd if="$kernel" iflag=skip_bytes,count_bytes skip="$offset" count="$length" bs=1M status=none |
	"${zstd[@]}" -dcq >"$out/kernel" 2>/dev/null; then
	:
else
	cp "$kernel" "$out/kernel"
fi

# --- the tools
tree=$work/base
skeleton "$tree"
for name in "${GUEST_TOOLS[@]}"; do
	if [[ $name != fio ]]; then add "$tree" "$name"; fi
done
# Loaded by name at run time, so no tool's list of libraries has it.
path=$(find -L "$tools_root/usr/lib/x86_64-linux-gnu" "$tools_root/usr/lib64" -maxdepth 1 \
	-name libgcc_s.so.1 -print -quit 2>/dev/null)
if [[ $path ]]; then copy "$tree" "${path#"$tools_root"}"; fi
"$busybox" --list | while read -r name; do
	[[ -e $tree/usr/bin/$name || -L $tree/usr/bin/$name || -e $tree/usr/sbin/$name || -L $tree/usr/sbin/$name ]] ||
		ln -s /usr/bin/busybox "$tree/usr/bin/$name"
done
printf 'root:x:0:0:root:/root:/usr/bin/bash\n' >"$tree/etc/passwd"
printf 'root:x:0:\n' >"$tree/etc/group"
mkdir -p "$tree/usr/lib/zvhost"
cp "$VM_SRC/guest/agent" "$tree/usr/lib/zvhost/agent"
cp "$VM_SRC/guest/init" "$tree/init"

skeleton "$work/fio"
add "$work/fio" fio "$tree"

# --- the modules
modules=$kernel_root/lib/modules/$release
to=$tree/usr/lib/modules/$release
mkdir -p "$to"
if [[ $kernel_root ]]; then "${depmod[@]}" -b "$kernel_root" "$release"; fi
for module in "${GUEST_MODULES_NEEDED[@]}" "${GUEST_MODULES_WANTED[@]}"; do
	if ! "${modprobe[@]}" -d "${kernel_root:-/}" -S "$release" --show-depends "$module" 2>/dev/null; then
		if [[ " ${GUEST_MODULES_NEEDED[*]} " == *" $module "* ]]; then
			err "kernel $release in ${kernel_root:-this machine} has no module $module"
			exit 1
		fi
	fi
done | awk '$1 == "insmod" { print $2 }' | sort -u >"$work/modules"
while read -r file; do
	name=${file#*/lib/modules/"$release"/}
	name=${name%.ko*}.ko
	mkdir -p "$to/${name%/*}"
	unpack_module "$file" >"$to/$name"
done <"$work/modules"
cp "$modules"/modules.{order,builtin,builtin.modinfo} "$to/"
"${depmod[@]}" -b "$tree/usr" "$release" 2>/dev/null || "${depmod[@]}" -b "$tree" "$release"

pack "$tree" "$out/initrd"
pack "$work/fio" "$out/initrd.fio"
rm -rf "$work"
