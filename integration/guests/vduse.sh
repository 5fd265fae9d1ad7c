#!/usr/bin/env bash
# The host itself uses disks, over VDUSE: in a guest that plays the host. A zoned disk with
# btrfs whose daemon is killed and replaced under load; an ordinary disk that grows; attach
# and detach.
#
#   integration/guests/vduse.sh [ZVHOST [KILLS]]
set -euo pipefail
# shellcheck source=integration/guests/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
kills=${2:-3}

cat >"$VM_RUN/host.sh" <<'EOF'
# serve NAME [OPTION...]   the daemon of the device NAME, in the background
serve() {
	zvhost serve --vduse "$1" --control-path "/tmp/$1.control" "${@:2}" >>"/tmp/$1.log" 2>&1 &
	echo $! >"/tmp/$1.pid"
}
# disk NAME   waits for the block device of NAME and prints it
disk() {
	await 120 "the disk of $1" compgen -G "/sys/bus/vdpa/devices/$1/virtio*/block/*" >/dev/null || { cat "/tmp/$1.log" >&2; return 1; }
	basename -a /sys/bus/vdpa/devices/"$1"/virtio*/block/* | sed 's,^,/dev/,'
}
# finish NAME SIGNAL   ends the daemon
finish() {
	kill -"$2" "$(<"/tmp/$1.pid")"
	await 120 "the end of the daemon of $1" ended "$(<"/tmp/$1.pid")"
}
ended() { ! grep -qs '^State:.[^Z]' "/proc/$1/status"; }
basename() { busybox basename "$@"; }
EOF
vm_start host --memory 1G --add "$zvhost:/bin/" --add "$VM_RUN/host.sh:/"
host() { guest ". /host.sh; $1"; }

step "a host without VDUSE"
guest_fails '^zvhost: this host has no VDUSE .*modprobe vduse virtio_vdpa.*CONFIG_VDPA_USER' \
	'zvhost create /tmp/one.zvh --size 512M --zone-size 16M >/dev/null; zvhost serve --vduse one --blk-file /tmp/one.zvh 2>&1 | tail -n 1; exit ${PIPESTATUS[0]}'
ok "one line names modules and options"
guest 'modprobe -a vduse virtio_vdpa virtio_blk btrfs'

step "a zoned disk"
host 'serve one --blk-file /tmp/one.zvh --queues 2; disk one' >disk
assert_eq "the block device" /dev/vda "$(<disk)"
guest 'cat /sys/block/vda/queue/zoned' >zoned
assert_eq "its zone model" host-managed "$(<zoned)"
host 'dd if=/dev/urandom of=/dev/vda bs=64k count=5 oflag=direct conv=notrunc status=none
	zvhost report /tmp/one.zvh >/tmp/report; blkzone report /dev/vda | diff - /tmp/report; blkzone reset /dev/vda
	ls -d /sys/block/vda/mq/*' >queues
assert_eq "its queues" 2 "$(wc -l <queues)"
guest 'cut -c 35 /sys/block/vda/device/features' >packed
assert_eq "RING_PACKED" 1 "$(<packed)"
ok "zones of the kernel and of zvhost report agree, 2 packed queues"

step "btrfs, and a daemon that is killed"
guest 'mkfs.btrfs -q -f -O zoned /dev/vda; mkdir -p /m; mount /dev/vda /m'
for ((i = 1; i <= kills; i++)); do
	host "(for f in 1 2 3; do dd if=/dev/urandom of=/m/$i.\$f bs=256k count=16 status=none; sync /m/$i.\$f; done; echo done >/tmp/done.$i) >/tmp/load.$i 2>&1 &
		await 120 'the load' test -s /m/$i.1; finish one KILL
		sha256sum /m/[0-$((i - 1))].* >/tmp/read.$i 2>&1 & # waits as well
		serve one --blk-file /tmp/one.zvh --queues 2
		await 120 'the end of the load' test -e /tmp/done.$i; cat /tmp/load.$i >&2
		sha256sum /m/$i.* >>/tmp/sums"
done
host 'grep -c "goes on" /tmp/one.log' >went
assert_eq "processes that went on" "$kills" "$(<went)"
host 'finish one TERM; serve one --blk-file /tmp/one.zvh --queues 2; sync; grep "left to the next process" /tmp/one.log' >/dev/null
host 'umount /m; mount /dev/vda /m; sha256sum --quiet -c /tmp/sums; btrfs scrub start -B /m | grep -c "no errors found"; umount /m
	zvhost report /tmp/one.zvh >/tmp/report; blkzone report /dev/vda | diff - /tmp/report' >/dev/null
host '! dmesg | grep -E "I/O error|BTRFS (error|warning)" >&2'
ok "$kills kills and a replacement under load: no error, every file and zone as it was"

step "an ordinary disk"
host 'truncate -s 64M /tmp/two.raw; serve two --blk-file /tmp/two.raw --split-rings; disk two; [[ $(cut -c 35 /sys/block/vdb/device/features) == 0 ]]; mkfs.ext4 -q /dev/vdb; mount /dev/vdb /m; echo hello >/m/hello
	truncate -s 96M /tmp/two.raw; zvhost resize /tmp/two.control
	grown() { [[ $(cat /sys/block/vdb/size) == 196608 ]]; }; await 120 "the new size" grown
	finish two KILL; serve two --blk-file /tmp/two.raw --split-rings; cat /m/hello; umount /m; e2fsck -fn /dev/vdb >/dev/null 2>&1' >/dev/null
ok "ext4, split queues; it grows while it is mounted; its daemon is killed"
guest_fails 'start zvhost with --queues=1' '. /host.sh; finish two KILL; zvhost serve --vduse two --blk-file /tmp/two.raw --queues 3'
host 'serve two --blk-file /tmp/two.raw; dd if=/dev/vdb of=/dev/null bs=4k count=16 iflag=direct status=none'
ok "a process that does not fit leaves the device to one that does"

step "attach and detach"
host 'zvhost create /tmp/three.zvh --size 64M --zone-size 4M >/dev/null; zvhost attach /tmp/three.zvh --queues 2; zvhost attach /tmp/three.zvh' >attached
assert_eq "what attach prints" $'/dev/vdc\n/dev/vdc' "$(<attached)"
# A container: a mount namespace whose /dev has the one node.
host 'mkdir -p /z /c; busybox unshare -m bash -euc "mount -t tmpfs dev /c; cp -a /dev/vdc /c/; mount --bind /c /dev; [[ ! -e /dev/vda ]]
		mkzonefs -f /dev/vdc; mount -t zonefs /dev/vdc /z; dd if=/dev/vdc of=/z/seq/0 bs=64k count=4 oflag=direct,append conv=notrunc status=none
		umount /z"
	zvhost report /tmp/three.zvh >/tmp/report; blkzone report /dev/vdc | diff - /tmp/report; grep -c "wptr 0x000200" /tmp/report' >contained
assert_eq "zones that the container has written 256 KiB to" 1 "$(tail -n 1 contained)"
ok "a mount namespace that has the node: zonefs"
guest 'mkfs.btrfs -q -f -m single -d single /dev/vdb; mount /dev/vdb /m' >/dev/null
guest_fails '/dev/vdb is in use: unmount' 'zvhost detach /dev/vdb'
host 'umount /m; zvhost detach /dev/vdb; await 120 "the end of its daemon" ended "$(</tmp/two.pid)"; [[ ! -e /dev/vdb ]]
	finish one KILL; zvhost detach --name one x
	zvhost detach /tmp/three.zvh; [[ ! -e /dev/vdc && ! -e /dev/vda ]]; zvhost check /tmp/three.zvh >/dev/null; zvhost check /tmp/one.zvh >/dev/null
	ls /dev/vduse /run/zvhost/vduse' >left
assert_eq "device nodes and files that are left" "control" "$(grep -v -e : -e '^$' -e '\.log$' left)"
guest_fails 'is not attached' 'zvhost detach /tmp/three.zvh'
ok "attach prints the block device; detach leaves nothing, with a daemon and without"
vm_sane
vm_stop
