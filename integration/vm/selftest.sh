#!/usr/bin/env bash
# Proves the rig itself, with QEMU's own storage daemon in place of zvhost: what
# fails here is not zvhost's fault.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/guest.sh"

step "a mirror is found in both of apt's formats"
mkdir -p "$VM_RUN/apt/sources.list.d"
cat >"$VM_RUN/apt/sources.list" <<'EOF'
# deb http://comment.invalid/debian bookworm main
deb-src http://source.invalid/debian bookworm main
deb [arch=amd64 signed-by=/a.gpg] http://one.invalid/debian/ bookworm main contrib
deb http://one.invalid/debian-security bookworm-security main
deb http://other.invalid/tool stable tool
EOF
cat >"$VM_RUN/apt/sources.list.d/x.sources" <<'EOF'
Types: deb deb-src
URIs: http://two.invalid/debian
 http://three.invalid/mirror/
Suites: trixie trixie-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 URIs: http://key.invalid/debian

Enabled: no
Types: deb
URIs: http://off.invalid/debian
Suites: trixie
Components: main
EOF
assert_eq "the list of mirrors" \
	$'http://one.invalid/debian\nhttp://two.invalid/debian\nhttp://three.invalid/mirror' \
	"$("$_vm_src/mirrors.sh" "$VM_RUN/apt")"
ok "mirrors"

step "a unit file is judged by a recent systemd"
printf '[Service]\nExecStart=/bin/true\n' >"$VM_RUN/good.service"
printf '[Service]\nExecStart=/bin/true\nTyp=notify\n' >"$VM_RUN/bad.service"
assert_eq "the verdict on a good unit" "" "$(systemd-analyze verify "$VM_RUN/good.service" 2>&1)"
assert_match "the verdict on a bad unit" "Unknown key.*Typ" "$(systemd-analyze verify "$VM_RUN/bad.service" 2>&1)"
systemd-analyze security --offline=true --no-pager "$VM_RUN/good.service" | grep 'Overall exposure' >/dev/null
ok "systemd-analyze"

# serve: a back-end that takes one front-end after another, as zvhost does.
serve() {
	run_start back-end qemu-storage-daemon \
		--blockdev "driver=file,node-name=disk,filename=$VM_RUN/disk" \
		--export "type=vhost-user-blk,id=e,node-name=disk,writable=on,num-queues=2,addr.type=unix,addr.path=$VM_RUN/s"
	await 120 "the back-end's socket" listening "$VM_RUN/s"
}
truncate -s 256M "$VM_RUN/disk"
serve

for front_end in zoned disk; do
	step "a guest with a --$front_end"
	printf 'brought along\n' >"$VM_RUN/file"
	begin=$EPOCHREALTIME
	vm_start one "--$front_end" "$VM_RUN/s,2" --add "$VM_RUN/file:/opt/file" --add "$VM_RUN/file:/bin/file"
	ok "booted in $(ms_since "$begin") ms, kernel $(guest 'uname -r'), its clock said $VM_BOOT_SECONDS s"

	assert_eq "the size in sectors" $((256 * 2048)) "$(guest 'cat /sys/block/vda/size')"
	assert_eq "queues" 2 "$(guest 'ls /sys/block/vda/mq | wc -l')"
	assert_eq "added files" $'brought along\nbrought along' "$(guest 'cat /opt/file /usr/bin/file; test -L /bin')"
	ok "the disk and the added files are there"

	assert_eq "what was read back" "$front_end was here" \
		"$(guest "printf '$front_end was here' | dd of=/dev/vda bs=512 conv=sync oflag=direct seek=9 status=none
			dd if=/dev/vda bs=512 skip=9 count=1 iflag=direct status=none | tr -d '\0'")"
	assert_eq "what the host has" "$front_end was here" \
		"$(dd if="$VM_RUN/disk" bs=512 skip=9 count=1 status=none | tr -d '\0')"
	ok "read and write"

	vm_sane one
	vm_stop
	ok "powered off"
done

step "file systems"
vm_start one --disk "$VM_RUN/s"
for fs in ext4 btrfs; do
	guest "mkfs.$fs -q /dev/vda; mount -t $fs /dev/vda /mnt; seq 100000 >/mnt/f; sync; umount /mnt
		mount /dev/vda /mnt; cmp /mnt/f <(seq 100000); umount /mnt; wipefs -qa /dev/vda"
	ok "$fs"
done

step "zoned parts of the guest"
guest 'modprobe null_blk nr_devices=1 memory_backed=1 zoned=1 gb=1 zone_size=64 zone_nr_conv=2
	blkzone report /dev/nullb0 >/tmp/report; grep -c . /tmp/report' >"$VM_RUN/zones"
assert_eq "zones" 16 "$(cat "$VM_RUN/zones")"
guest 'mkzonefs /dev/nullb0 >/dev/null; mount -t zonefs /dev/nullb0 /mnt; ls /mnt/seq | wc -l; umount /mnt' >"$VM_RUN/zones"
assert_eq "zonefs files" 14 "$(cat "$VM_RUN/zones")"
guest_fails 'Invalid argument|error' 'dd if=/dev/zero of=/dev/nullb0 bs=4k count=1 seek=100000 oflag=direct'
guest 'modprobe -a f2fs xfs nvme scsi_debug dm-zoned dm-log-writes loop ublk_drv
	zbd report /dev/nullb0 >/dev/null'
ok "null_blk, blkzone, zonefs, modules for later"

step "the channel"
status=0
guest 'exit 42' || status=$?
assert_eq "an exit status" 42 "$status"
status=0
guest 'false; true' || status=$?
assert_eq "the status of a failure in the middle" 1 "$status"
assert_eq "stdout and stderr" $'a\nb' "$(guest $'echo a\necho b >&2')"
assert_eq "quotes" "it's \$5 \"now\" Ünïcode" "$(guest "printf '%s' 'it'\''s \$5 \"now\" Ünïcode'")"
assert_eq "no output" "" "$(guest true)"
guest 'sleep 1000 >/dev/null & echo gone on' | grep -q 'gone on'
guest '(sleep 1; touch /tmp/there) >/dev/null 2>&1 & await 60 "the file" test -e /tmp/there'
status=0
guest 'await 1 "what never comes" test -e /tmp/never' >"$VM_RUN/err" || status=$?
assert_eq "the status of an await in vain" 1 "$status"
assert_eq "what it says" "waited 1 s in vain for what never comes: test -e /tmp/never" "$(<"$VM_RUN/err")"
assert_match "an await in vain on the host" "FAILED: waited 0 s in vain for the moon: false" "$( (await 0 "the moon" false) 2>&1)"
ok "statuses, output, background, waiting"

head -c 3000000 /dev/urandom >"$VM_RUN/noise"
guest_push "$VM_RUN/noise" /tmp/noise
guest 'cat /tmp/noise' | cmp - "$VM_RUN/noise"
assert_eq "a long command" 200001 "$(guest "printf '%s' '$(printf '%0200001d' 0)' | wc -c")"
ok "3 MB of noise there and back, a command of 200 kB"

status=0
guest -t 2 'sleep 60' 2>"$VM_RUN/err" || status=$?
assert_eq "the status of a time-out" 124 "$status"
grep -q 'took longer than 2 s' "$VM_RUN/err"
assert_eq "the guest afterwards" fine "$(guest 'echo fine')"
ok "time-out"

begin=$EPOCHREALTIME
for _ in {1..20}; do guest true; done
ok "a command takes $(($(ms_since "$begin") / 20)) ms"

step "two guests, and one that dies"
vm_start two --no-wait --cpus 1 --memory 512M
vm_wait two
assert_eq "processors of two" 1 "$(guest nproc)"
assert_eq "processors of one" 2 "$(guest -n one nproc)"
status=0
guest 'echo c >/proc/sysrq-trigger' >"$VM_RUN/err" 2>&1 || status=$?
assert_eq "the status of a command whose guest died" 125 "$status"
grep -q 'Kernel panic' "$VM_RUN/err"
vm_kill two
vm_stop one
ok "a panic is told from a failure"

status=0
run_stop back-end || status=$?
assert_eq "how the back-end ended" 0 "$status"
ok "back-end"

step "fio"
vm_start three --fio
guest 'fio --name=x --filename=/dev/null --rw=write --size=1M --ioengine=psync --output=/dev/null'
vm_stop
ok "fio"
