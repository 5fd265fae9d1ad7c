#!/usr/bin/env bash
# unpack.sh ROOT DEBS FILE: unpacks one Debian package into ROOT, without what
# nothing here reads, and prints a line for root.sh to count.
set -euo pipefail
dpkg-deb --fsys-tarfile "$2/$3" | tar -C "$1" -x --no-same-owner \
	--exclude='./usr/share/doc' --exclude='./usr/share/man' \
	--exclude='./usr/share/locale' --exclude='./usr/share/i18n' \
	--exclude='./usr/lib/modules/*/kernel/drivers/gpu' \
	--exclude='./usr/lib/modules/*/kernel/drivers/media' \
	--exclude='./usr/lib/modules/*/kernel/drivers/net' \
	--exclude='./usr/lib/modules/*/kernel/sound'
printf '%s\n' "$3"
