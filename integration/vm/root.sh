#!/usr/bin/env bash
# Makes the cached root: a folder with the Debian packages that the machine's
# own system cannot stand in for.
#
#   root.sh FOLDER DEBS PACKAGE...
#
# DEBS is where packages are downloaded to; it outlives a failed run, so that
# the next one goes on from there.
#
# It is unpacked, not installed: apt picks the packages and checks their
# signatures, dpkg-deb unpacks them, and no maintainer script runs. Nothing of
# the root is ever booted or changed, so nothing has to be configured. Compared
# with debootstrap and apt-get install in a chroot it needs no root, no mounts
# to be taken down again and no initramfs hooks. (Measured on 2 cores, 156
# packages of 200 MB: 5 s to fetch and 8 s to unpack; debootstrap's base alone,
# without QEMU, a kernel and tools, takes 30 s.)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$VM_SRC/progress.sh"

root=$1 debs=$2
shift 2
packages=("$@")
progress_now=${PROGRESS_NOW:-0} progress_total=${PROGRESS_TOTAL:-2}

# apt works in a folder of its own, so that the machine's state is not touched.
# What it has been told about getting files (proxies, certificates) is kept.
apt=$root.apt
mkdir -p "$root" "$apt"/{etc/apt.conf.d,etc/preferences.d,etc/trusted.gpg.d,state/lists/partial,cache} "$debs/partial"
{
	cat <<-EOF
		Dir "$apt";
		Dir::Etc "$apt/etc";
		Dir::Etc::netrc "/etc/apt/auth.conf";
		Dir::Etc::netrcparts "/etc/apt/auth.conf.d";
		Dir::State "$apt/state";
		Dir::State::status "$apt/state/status";
		Dir::Cache "$apt/cache";
		Dir::Cache::archives "$debs";
		APT::Architecture "amd64";
		APT::Architectures { "amd64"; };
		APT::Install-Recommends "false";
		APT::Sandbox::User "root";
		APT::Update::Error-Mode "any";
	EOF
	apt-config dump | grep '^Acquire::' || true
	printf 'Acquire::Languages "none";\nAcquire::Retries "3";\n'
} >"$apt/apt.conf"
export APT_CONFIG=$apt/apt.conf LC_ALL=C

# QEMU alone comes from backports (and its BIOS, of which it wants the newest);
# everything else is what trixie users have.
cat >"$apt/etc/preferences" <<-EOF
	Package: src:qemu src:seabios
	Pin: release n=$VM_BACKPORTS
	Pin-Priority: 990
EOF

# Packages that others depend on, but only for their maintainer scripts, for
# desktops, or for what an initramfs of Debian's own needs. apt is told that
# they are there; that leaves 90 packages out.
for p in adduser base-passwd dbus debconf dpkg fontconfig-config init-system-helpers \
	initramfs-tools libgtk-3-0t64 libpam-modules libpam-runtime libpam-systemd \
	linux-initramfs-tool login.defs mawk passwd perl-base procps python3 python3-dbus \
	systemd-sysv tzdata ucf xkb-data; do
	printf '%s\n' "Package: $p" 'Status: install ok installed' 'Architecture: amd64' \
		'Multi-Arch: allowed' 'Version: 999:1' 'Maintainer: zvhost' 'Description: left out' ''
done >"$apt/state/status"

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
if [[ ! -r $keyring ]]; then
	keyring=$root/usr/share/keyrings/none
	cp /etc/apt/trusted.gpg.d/* "$apt/etc/trusted.gpg.d/" 2>/dev/null || true
fi

progress_step "package lists of Debian $VM_SUITE and $VM_BACKPORTS"
# A network or a mirror that is not there, or changes, while it is asked is tried again.
pauses=(0 10 30 60)
found=
look() {
	while read -r mirror; do
		for suite in "$VM_SUITE" "$VM_BACKPORTS"; do
			printf 'deb %s%s %s main\n' "$([[ -r $keyring ]] && echo "[signed-by=$keyring] ")" "$mirror" "$suite"
		done >"$apt/etc/sources.list"
		if apt-get update >"$apt/log" 2>&1; then
			found=$mirror
			return
		fi
		cat "$apt/log" >>"$apt/log.all"
	done < <(if [[ ${ZVHOST_DEBIAN_MIRROR:-} ]]; then echo "$ZVHOST_DEBIAN_MIRROR"; else "$VM_SRC/mirrors.sh"; fi)
	return 1
}
for pause in "${pauses[@]}"; do
	sleep "$pause"
	if look; then break; fi
done
if [[ ! $found ]]; then
	grep -h '^[EW]:' "$apt/log.all" 2>/dev/null | sort -u | head -n 5 >&2 || true
	err "no Debian mirror serves $VM_SUITE and $VM_BACKPORTS: looked at the mirrors in /etc/apt; set ZVHOST_DEBIAN_MIRROR to one that does"
	exit 1
fi

# The list is asked for with an empty download folder: apt leaves out of it what
# it has already.
get=(apt-get install --yes --no-install-recommends)
list=(--print-uris -qq -o "Dir::Cache::archives=$apt/cache/none")
mkdir -p "$apt/cache/none/partial"
if ! "${get[@]}" "${list[@]}" "${packages[@]}" >"$apt/uris" 2>"$apt/log"; then
	# A newer QEMU may want more of backports than is pinned above.
	get+=(--target-release "$VM_BACKPORTS")
	if ! "${get[@]}" "${list[@]}" "${packages[@]}" >"$apt/uris" 2>"$apt/log"; then
		cat "$apt/log" >&2
		err "apt finds no set of packages for: ${packages[*]}"
		exit 1
	fi
fi
count=$(wc -l <"$apt/uris")
progress_step "fetching $count packages, $(awk '{ n += $3 } END { printf "%d", n / 1e6 }' "$apt/uris") MB"

# apt reports as dlstatus:FILE:PERCENT:TEXT on the descriptor it is given.
fetch() {
	"${get[@]}" --download-only -o APT::Status-Fd=3 "${packages[@]}" 3>&1 >"$apt/log" 2>&1 |
		while IFS=: read -r kind n _; do
			if [[ $kind == dlstatus ]]; then progress_at "$n" "$count" packages; fi
		done
}
fetched=
for pause in "${pauses[@]}"; do
	sleep "$pause"
	if fetch; then
		fetched=yes
		break
	fi
done
[[ $fetched ]] || {
	grep -h '^[EW]:' "$apt/log" >&2 || tail -n 5 "$apt/log" >&2
	err "fetching packages failed: run it again, what was fetched is kept"
	exit 1
}

progress_step "unpacking $count packages"
# base-files first: it brings /lib -> usr/lib and its like, which the others
# count on. Then the others on all processors, the largest first.
for deb in "$debs"/base-files_*.deb; do "$VM_SRC/unpack.sh" "$root" "$debs" "${deb##*/}" >/dev/null; done
sort -k3,3rn "$apt/uris" | awk '{ print $2 }' |
	xargs -n 1 -P "$(nproc)" "$VM_SRC/unpack.sh" "$root" "$debs" |
	{
		n=0
		while read -r _; do
			n=$((n + 1))
			progress_at "$n" "$count" packages
		done
	}
progress_clear
