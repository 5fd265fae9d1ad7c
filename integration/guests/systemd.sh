#!/usr/bin/env bash
# The shipped units under a systemd that is process 1 (of a pid namespace, in a
# guest): socket activation, and a daemon that is killed and restarted while a
# front-end uses the disk, which systemd's fd store keeps connected.
#
#   integration/guests/systemd.sh [ZVHOST]
set -euo pipefail
# shellcheck source=integration/guests/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
root=$(readlink -f "$VM_DIR/root")
[[ -x $root/usr/lib/systemd/systemd ]] || die "there is no systemd in $root"

step "systemd $("$VM_DIR/bin/systemd-analyze" --version | sed -n '1s/systemd \([0-9]*\).*/\1/p') in a guest"
# A root of its own: systemd, what it needs, zvhost and its units.
sd=$VM_RUN/sd
mkdir -p "$sd"/{etc/systemd/system,etc/zvhost,proc,sys,dev,run,tmp,var/lib/zvhost,usr/bin,usr/lib/systemd,usr/lib64,root}
ln -s usr/bin "$sd/bin"; ln -s usr/bin "$sd/sbin"; ln -s usr/lib "$sd/lib"; ln -s usr/lib64 "$sd/lib64"
libs=$root/usr/lib/x86_64-linux-gnu
take() {
	local lib
	cp -L "$root$1" "$sd$1"
	"$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$libs:$libs/systemd" --list "$root$1" |
		sed -n 's/.*=> \(\/[^ ]*\).*/\1/p' | while read -r lib; do
		mkdir -p "$sd$(dirname "${lib#"$root"}")"
		[[ -e $sd${lib#"$root"} ]] || cp -L "$lib" "$sd${lib#"$root"}"
	done
}
mkdir -p "$sd/usr/lib/x86_64-linux-gnu/systemd"
take /usr/lib/systemd/systemd
take /usr/lib/systemd/systemd-executor
take /usr/bin/systemctl
take /usr/bin/bash
take /usr/bin/unshare
take /usr/bin/nsenter
cp -L "$root/usr/lib64/ld-linux-x86-64.so.2" "$sd/usr/lib64/"
echo "/usr/lib/x86_64-linux-gnu/systemd" >"$sd/etc/ld.so.conf"
cp "$zvhost" "$sd/usr/bin/zvhost"
cp "$repository"/packaging/systemd/zvhost@.{service,socket} "$sd/etc/systemd/system/"
for target in quiet sysinit basic sockets multi-user shutdown paths timers; do
	printf '[Unit]\nDescription=%s\n' "$target" >"$sd/etc/systemd/system/$target.target"
done
echo 'root:x:0:0:root:/root:/bin/bash
zvhost:x:970:970::/var/lib/zvhost:/bin/false' >"$sd/etc/passwd"
echo 'root:x:0:
zvhost:x:970:
kvm:x:971:zvhost' >"$sd/etc/group"
echo 'ZVHOST_ARGS=--queues 2' >"$sd/etc/zvhost/vm1.conf"
: >"$sd/etc/machine-id"

vm_start systemd --add "$sd" --memory 1G
guest 'mount --bind /sd /sd
	for m in proc sys dev; do mount --rbind /$m /sd/$m; done
	mount -t tmpfs tmpfs /sd/run; mount -t tmpfs tmpfs /sd/tmp
	grep -q " /sd/sys/fs/cgroup " /proc/mounts || mount -t cgroup2 cgroup2 /sd/sys/fs/cgroup
	chroot /sd zvhost create /var/lib/zvhost/vm1.zvh --size 1G --zone-size 16M
	busybox chown -R 970:970 /sd/var/lib/zvhost
	(LD_LIBRARY_PATH= container=zvhost chroot /sd unshare --pid --fork --mount --mount-proc /usr/lib/systemd/systemd \
		--unit=quiet.target --log-target=console --log-level=info --show-status=no </dev/null >/tmp/systemd.log 2>&1 &)
	# Inside, so that systemd sees who asks.
	printf "%s\n" "#!/bin/bash" "exec chroot /sd nsenter --target \$(cat /proc/\$(busybox pidof unshare)/task/*/children) --pid --mount --root --wd systemctl \"\$@\"" >/bin/inside
	chmod +x /bin/inside
	await 120 "systemd" inside is-active --quiet quiet.target || { tail -n 20 /tmp/systemd.log; exit 1; }'
in_sd() { guest "inside $1"; }
ok "systemd is up"

in_sd 'start zvhost@vm1.socket'
guest '[[ -S /sd/run/zvhost/vm1.sock ]]'
# A front-end, or one after the other, until all kills are done. The first one
# brings the service up.
guest '(while [[ ! -e /tmp/enough ]]; do
		chroot /sd zvhost bench --socket-path /run/zvhost/vm1.sock --server-pid 1 --rw append --zones 8 --queues 2 --runtime 10s || break
	done >/tmp/bench 2>&1; echo "status $?" >>/tmp/bench) &
	await 120 "the service" inside is-active --quiet zvhost@vm1.service'
# again N   returns when systemd has started the service for the Nth time by itself.
again() {
	guest "again() { ((\$(inside show -p NRestarts --value zvhost@vm1.service) >= $1)) && inside is-active --quiet zvhost@vm1.service; }
		await 120 'restart $1' again" || die "$(guest 'tail -n 30 /tmp/systemd.log')"
}
for kill in 1 2 3 4 5; do
	in_sd 'kill -s KILL zvhost@vm1.service'
	again "$kill"
done
for _ in 1 2 3; do in_sd 'restart zvhost@vm1.service'; done
guest 'touch /tmp/enough; await 120 "the last front-end" grep -q ^status /tmp/bench; cat /tmp/bench; grep -q "^status 0" /tmp/bench' >bench.out ||
	die "the front-end noticed: $(cat bench.out); $(guest 'tail -n 30 /tmp/systemd.log')"
ok "5 kills and 3 restarts while front-ends appended: $(sed -n 's/.*, \([0-9]*\) requests.*/\1/p' bench.out | awk '{ n += $1 } END { print n " requests" }')"

in_sd 'stop zvhost@vm1.service zvhost@vm1.socket'
guest 'chroot /sd zvhost check /var/lib/zvhost/vm1.zvh >/tmp/check || { cat /tmp/check; exit 1; }'
vm_stop
ok "stopped, and the image is sound"
