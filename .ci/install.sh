#!/usr/bin/env bash
# Installs Debian packages that a test needs: install.sh PACKAGE...
set -euo pipefail

if ! command -v apt-get >/dev/null; then
	echo "install.sh: $* is needed, and this machine has no apt-get to install it with: install it by hand" >&2
	exit 1
fi
if ((EUID != 0)); then
	echo "install.sh: $* is needed: run apt-get install $*, as root" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -qq -o DPkg::Lock::Timeout=600 -o Acquire::Retries=5)
get=("${apt[@]}" install --yes --no-install-recommends "$@")
# Machines come without package lists, or with old ones, or with a repository that cannot
# be reached and has nothing of ours; and a mirror changes now and then while it is read.
for pause in 0 5 15 60; do
	if out=$("${get[@]}" 2>&1); then exit 0; fi
	sleep "$pause"
	out+=$'\n'$("${apt[@]}" update 2>&1) || true
done
if ! out+=$'\n'$("${get[@]}" 2>&1); then
	printf '%s\ninstall.sh: apt-get could not install %s\n' "$out" "$*" >&2
	exit 1
fi
