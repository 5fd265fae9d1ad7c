#!/usr/bin/env bash
# Makes sure that a newer kernel for guests is there, and prints the folder it is
# in, for vm_start --kernel:
#
#   kernel    the newest kernel of Debian's backports, the flavour for clouds: a
#             small one, with all that a virtio guest needs
#   layer     its modules, and newer xfsprogs from Debian's testing, to be added
#             to the guest that fetch.sh makes
#   release   the kernel's release
#
# XFS can use zoned disks from Linux 6.15 and xfsprogs 6.15 on; Debian stable has
# neither, and its backports have no xfsprogs. Both come from the mirror that
# fetch.sh uses, 48 MB. mkfs.xfs of testing runs with the stable guest's libraries.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

VM_TESTING=forky
base=$("$VM_SRC/fetch.sh")
to=$VM_CACHE/newest-$(cat "$VM_SRC"/{newest,common}.sh | sha256sum | cut -c 1-12)
if [[ -e $to/release ]]; then
	touch -c "$to"
	printf '%s\n' "$to"
	exit 0
fi
mkdir -p "$VM_CACHE"
exec 9>"$VM_CACHE/newest.lock"
flock 9
work=$VM_CACHE/tmp-newest
rm -rf "$work"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{etc/apt.conf.d,etc/preferences.d,etc/trusted.gpg.d,state/lists/partial,cache/archives/partial,debs,root,out}

# apt works in a folder of its own, as in root.sh.
: >"$work/state/status"
{
	printf 'Dir "%s";\nDir::Etc "%s/etc";\nDir::State "%s/state";\n' "$work" "$work" "$work"
	printf 'Dir::State::status "%s/state/status";\nDir::Cache "%s/cache";\n' "$work" "$work"
	printf 'APT::Architecture "amd64";\nAPT::Architectures { "amd64"; };\nAPT::Sandbox::User "root";\n'
	printf 'APT::Update::Error-Mode "any";\n'
	apt-config dump | grep '^Acquire::' || true
	printf 'Acquire::Languages "none";\nAcquire::Retries "3";\n'
} >"$work/apt.conf"
export APT_CONFIG=$work/apt.conf LC_ALL=C
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
found=
while read -r mirror; do
	for suite in "$VM_BACKPORTS" "$VM_TESTING"; do
		printf 'deb %s%s %s main\n' "$([[ -r $keyring ]] && echo "[signed-by=$keyring] ")" "$mirror" "$suite"
	done >"$work/etc/sources.list"
	if apt-get update >"$work/log" 2>&1; then
		found=yes
		break
	fi
done < <(if [[ ${ZVHOST_DEBIAN_MIRROR:-} ]]; then echo "$ZVHOST_DEBIAN_MIRROR"; else "$VM_SRC/mirrors.sh"; fi)
if [[ ! $found ]]; then
	grep '^[EW]:' "$work/log" | sort -u | head -n 5 >&2 || true
	err "no Debian mirror serves $VM_BACKPORTS and $VM_TESTING: looked at the mirrors in /etc/apt; set ZVHOST_DEBIAN_MIRROR to one that does"
	exit 1
fi

# The kernel's package is named by what depends on it.
image=$(apt-cache depends "linux-image-cloud-amd64/$VM_BACKPORTS" | sed -n 's/^  Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
if [[ ! $image ]]; then
	err "$VM_BACKPORTS has no kernel for clouds (linux-image-cloud-amd64)"
	exit 1
fi
release=${image#linux-image-}
packages=("xfsprogs/$VM_TESTING")
# From 7.x on kernel and modules are in packages of their own.
for package in "$image" "linux-binary-$release" "linux-modules-$release" "linux-base-$release"; do
	if apt-cache show "$package" >/dev/null 2>&1; then packages+=("$package"); fi
done
(cd "$work/debs" && apt-get download "${packages[@]}" >"$work/log" 2>&1) || {
	grep '^[EW]:' "$work/log" >&2 || true
	err "fetching ${packages[*]} failed: run it again"
	exit 1
}
for deb in "$work"/debs/*.deb; do dpkg-deb --fsys-tarfile "$deb" | tar -C "$work/root" -x --no-same-owner --exclude='./usr/share'; done

modules=$work/root/usr/lib/modules/$release
kernel=$modules/vmlinuz
if [[ ! -e $kernel ]]; then kernel=$work/root/boot/vmlinuz-$release; fi
cp "$kernel" "$work/out/kernel"

# What a guest loads: the modules asked for, and those that they need.
. "$VM_SRC/system.sh"
root_exec "$base/root" usr/bin/kmod depmod
depmod=("${ROOT_EXEC[@]}")
root_exec "$base/root" usr/bin/kmod modprobe
modprobe=("${ROOT_EXEC[@]}")
"${depmod[@]}" -b "$work/root/usr" "$release" 2>/dev/null || "${depmod[@]}" -b "$work/root" "$release"
tree=$work/tree
mkdir -p "$tree/usr/lib/modules/$release" "$tree/usr/sbin"
ln -s usr/lib "$work/root/lib" 2>/dev/null || true
for module in "${GUEST_MODULES_NEEDED[@]}" "${GUEST_MODULES_WANTED[@]}"; do
	"${modprobe[@]}" -d "$work/root" -S "$release" --show-depends "$module" 2>/dev/null || true
done | awk '$1 == "insmod" { print $2 }' | sort -u | while read -r file; do
	name=${file#*/lib/modules/"$release"/}
	name=${name%.ko*}.ko
	mkdir -p "$tree/usr/lib/modules/$release/${name%/*}"
	case $file in
	*.xz) xz -dc "$file" ;;
	*) cat "$file" ;;
	esac >"$tree/usr/lib/modules/$release/$name"
done
cp "$modules"/modules.{order,builtin,builtin.modinfo} "$tree/usr/lib/modules/$release/"
"${depmod[@]}" -b "$tree/usr" "$release" 2>/dev/null || "${depmod[@]}" -b "$tree" "$release"
cp "$work/root/usr/sbin"/{mkfs.xfs,xfs_repair} "$tree/usr/sbin/"
(cd "$tree" && find . -mindepth 1 | sort | "$base/bin/cpio" -o -H newc -R 0:0 2>/dev/null) >"$work/out/layer"
printf '%s\n' "$release" >"$work/out/release"
rm -rf "$to"
mv "$work/out" "$to"
find "$VM_CACHE" -mindepth 1 -maxdepth 1 -name 'newest-*' -mtime +30 -exec rm -rf {} +
printf '%s\n' "$to"
