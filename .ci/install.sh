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
get=(apt-get install --yes --no-install-recommends -qq "$@")
# Machines come without package lists, or with old ones.
if ! out=$("${get[@]}" 2>&1) && ! out=$(apt-get update -qq 2>&1 && "${get[@]}" 2>&1); then
	printf '%s\ninstall.sh: apt-get could not install %s\n' "$out" "$*" >&2
	exit 1
fi
