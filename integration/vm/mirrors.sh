#!/usr/bin/env bash
# Prints the Debian mirrors that this machine's apt is set up with, one a line,
# the likeliest first. Reads both formats: deb822 (*.sources) and one-line
# (*.list). An argument names another folder than /etc/apt, for tests.
set -euo pipefail

etc=${1:-/etc/apt}
shopt -s nullglob

# Security archives are left out: they have neither trixie's own packages nor
# its backports. Third-party archives may pass; the caller tries each, and only
# one with Debian's signature on trixie is taken.
debian_suite='^(old|oldold)?stable|^(bullseye|bookworm|trixie|forky|duke|testing|unstable|sid)(-updates|-backports)?$'

{
	for f in "$etc/sources.list" "$etc"/sources.list.d/*.list; do
		[[ -r $f ]] || continue
		# deb [option=value ...] URI SUITE COMPONENT...
		awk -v suite="$debian_suite" '
			$1 == "deb" {
				sub(/^[ \t]*deb[ \t]+(\[[^]]*\][ \t]*)?/, "")
				if ($2 ~ suite && (" " $0 " ") ~ / main /) print $1
			}' "$f"
	done
	for f in "$etc"/sources.list.d/*.sources; do
		[[ -r $f ]] || continue
		awk -v suite="$debian_suite" '
			function flush(    i, n, s, good) {
				n = split(v["suites"], s, /[ \t]+/)
				for (i = 1; i <= n; i++) if (s[i] ~ suite) good = 1
				if (good && v["enabled"] !~ /^(no|false|0)/ \
				    && (" " v["types"] " ") ~ / deb / && (" " v["components"] " ") ~ / main /) {
					n = split(v["uris"], s, /[ \t]+/)
					for (i = 1; i <= n; i++) if (s[i] != "") print s[i]
				}
				delete v
			}
			/^#/ { next }
			/^[ \t]*$/ { flush(); next }
			/^[ \t]/ { sub(/^[ \t]+/, ""); v[field] = v[field] " " $0; next }
			{
				field = tolower($0); sub(/:.*/, "", field)
				sub(/^[^:]*:[ \t]*/, ""); v[field] = $0
			}
			END { flush() }' "$f"
	done
} | awk '
	/^(cdrom|file|copy):/ || /debian-security/ { next }
	{ sub(/\/+$/, "") }
	seen[$0]++ { next }
	/\/debian$/ { print; next }
	{ later[++n] = $0 }
	END { for (i = 1; i <= n; i++) print later[i] }'
