#!/usr/bin/env bash
# Tests what is installed: that make install puts everything in place, that
# systemd finds no fault with the units, that their sandbox is tight, and that
# the command lines in them are ones that zvhost takes.
#
# systemd-analyze comes from the VM rig, so that it is a recent one and there on
# every machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The exposure that systemd-analyze security may find at most, in tenths: 1.0.
max_exposure=10

vm=$(integration/vm/fetch.sh)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0

ok() {
	printf 'ok    %s\n' "$1"
	passed=$((passed + 1))
}
# bad TEXT [DETAILS]
bad() {
	printf '%s\nFAIL  %s\n' "${2:-}" "$1"
	failed=$((failed + 1))
}
# quiet NAME COMMAND...: it must succeed and have nothing to say.
quiet() {
	local name=$1 out
	shift
	if out=$("$@" 2>&1) && [[ ! $out ]]; then ok "$name"; else bad "$name" "$out"; fi
}

# make install takes what was built last, which is to be what stands here.
make --no-print-directory build >/dev/null
# Both prefixes: a distribution's and an administrator's.
for prefix in /usr /usr/local; do
	make --no-print-directory install DESTDIR="$tmp/root" PREFIX="$prefix" >/dev/null
done
root=$tmp/root
want="etc/qemu/vhost-user/50-zvhost.json usr/share/qemu/vhost-user/50-zvhost.json"
for prefix in usr usr/local; do
	for f in bin/zvhost lib/systemd/system/zvhost@.service lib/systemd/system/zvhost@.socket \
		lib/sysusers.d/zvhost.conf lib/tmpfiles.d/zvhost.conf \
		share/doc/zvhost/{LICENSE,README.md,example.conf}; do
		want+=" $prefix/$f"
	done
done
diff=$(diff <(tr ' ' '\n' <<<"$want" | sort) <(cd "$root" && find . -type f | sed 's,^\./,,' | sort)) || true
if [[ ! $diff ]]; then ok "make install puts everything in place"; else bad "make install" "$diff"; fi

# The manifest names the binary that was installed, which answers as the
# conventions have it (vhost-user.json).
for manifest in etc/qemu/vhost-user/50-zvhost.json usr/share/qemu/vhost-user/50-zvhost.json; do
	binary=$(sed -n 's/.*"binary": "\(.*\)".*/\1/p' "$root/$manifest")
	capabilities=$("$root$binary" --print-capabilities --unknown-option | tr -d ' \n')
	if [[ $capabilities == '{"type":"block","features":["read-only","blk-file"]}' ]]; then
		ok "/$manifest names $binary, which prints its capabilities"
	else
		bad "/$manifest: $binary --print-capabilities" "$capabilities"
	fi
done

# The units, with the path of the binary as it is here.
units=$tmp/units
mkdir "$units"
cp "$root/usr/lib/systemd/system/"* "$units"
sed -i "s,/usr/bin/zvhost,$root/usr/bin/zvhost," "$units/zvhost@.service"
analyze() {
	SYSTEMD_UNIT_PATH="$units:$vm/units:/usr/lib/systemd/system:/lib/systemd/system" "$vm/bin/systemd-analyze" "$@"
}
quiet "systemd-analyze verify" analyze verify "$units/zvhost@vm1.service" "$units/zvhost@vm1.socket"

exposure=$(analyze security --offline=yes --threshold="$max_exposure" "$units/zvhost@.service" 2>&1) && tight=yes || tight=
level=$(sed -n 's/.*exposure level for [^:]*: \([0-9.]*\).*/\1/p' <<<"$exposure")
if [[ $tight && $level ]]; then
	ok "systemd-analyze security: exposure $level, at most 1.0"
else
	bad "systemd-analyze security: exposure ${level:-unknown}, more than 1.0" "$exposure"
fi

# ExecStart as systemd would run it, with the default environment and with what
# the example suggests. An image that is missing makes it fail with status 3; a
# wrong command line would be status 2. Neither is started again.
if grep -qx 'RestartPreventExitStatus=2 3' "$units/zvhost@.service"; then
	ok "the unit does not start again what would fail again"
else
	bad "RestartPreventExitStatus=" "$(grep RestartPrevent "$units/zvhost@.service")"
fi
# control-group, the default, kills zvhost-leftover together with a daemon that hangs, and
# mixed as soon as the daemon has ended (docs/vhost-user.md).
if [[ $(grep ^KillMode= "$units/zvhost@.service") == KillMode=process ]]; then
	ok "systemd kills the daemon, and leaves to zvhost-leftover what the daemon had open"
else
	bad "KillMode=" "$(grep ^KillMode= "$units/zvhost@.service")"
fi
exec_start=$(sed -n 's/^ExecStart=//p' "$units/zvhost@.service" | sed "s,%t,$tmp,g; s,%i,vm1,g")
mkdir "$tmp/zvhost"
while IFS= read -r args; do
	status=0
	out=$(ZVHOST_BLK_FILE=$tmp/missing/vm1.zvh ZVHOST_ARGS=$args sh -c "exec $exec_start" 2>&1) || status=$?
	if [[ $status == 3 && $out == *missing/vm1.zvh* ]]; then
		ok "ExecStart is a command line that zvhost takes (ZVHOST_ARGS=$args)"
	else
		bad "ExecStart with ZVHOST_ARGS=$args: status $status" "$out"
	fi
done < <(
	echo
	sed -n 's/^#ZVHOST_ARGS=//p' packaging/systemd/example.conf
)

# What is removed again.
for prefix in /usr /usr/local; do
	make --no-print-directory uninstall DESTDIR="$root" PREFIX="$prefix" >/dev/null
done
quiet "make uninstall leaves nothing" find "$root" -type f

printf 'note: exposure %s\n' "$level"
printf '%d passed, %d failed\n' "$passed" "$failed"
((failed == 0))
