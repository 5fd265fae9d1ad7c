#!/usr/bin/env bash
# A guest that writes is moved from one QEMU and one daemon to another QEMU and
# another daemon: ext4 on an ordinary disk behind the stock vhost-user-blk-pci. The
# memory goes through a file while the guest runs on and the daemon marks what it
# writes in the dirty log. This shows that QEMU and the daemon understand each other;
# that no mark is missing is shown by TestLogCoversAllWrites and
# TestDirtyLogUnderLoad, which find a planted one. This test did not find it, likely
# because free pages of a quiet guest come back with the contents that they had.
#
#   integration/guests/migrate.sh [ZVHOST]
set -euo pipefail
# shellcheck source=integration/guests/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# monitor NAME   makes the pipe of QEMU NAME's monitor, for qmp
monitor() {
	mkfifo "$VM_RUN/$1.qmp.in" "$VM_RUN/$1.qmp.out"
	exec {qmp_in}<>"$VM_RUN/$1.qmp.in" {qmp_out}<>"$VM_RUN/$1.qmp.out"
}

# qmp JSON   sends a command to the monitor and sets answer to what it says
qmp() {
	printf '%s\n' "$1" >&"$qmp_in"
	while IFS= read -r -t 60 answer <&"$qmp_out"; do
		case $answer in
		*'"error"'*) die "QEMU's monitor: $1: $answer" ;;
		*'"return"'*) return ;;
		esac
	done
	die "QEMU's monitor does not answer: $1"
}

# daemon NAME   one that serves disk.raw on the socket NAME.sock
daemon() {
	run_start "$1" "$zvhost" serve --debug --socket-path "$VM_RUN/$1.sock" --blk-file "$VM_RUN/disk.raw" --queues 2
	wait_for 20 "the socket of daemon $1" test -S "$VM_RUN/$1.sock"
}

# moved RINGS DEVICE_OPTIONS   the whole course; RINGS says it in words
moved() {
	local rings=$1 options=$2
	step "a guest moves while it writes, $rings rings"
	rm -f disk.raw state
	truncate -s 1G disk.raw
	daemon from
	monitor here
	vm_start here --memory 768M --disk "$VM_RUN/from.sock,2,$options" -- -qmp "pipe:$VM_RUN/here.qmp"
	# Files that will be read once, while it moves: what the daemon puts into memory
	# then stays in the page cache, and is looked at when it has moved.
	guest -t 300 'mkfs.ext4 -q /dev/vda; mkdir /x; mount -t ext4 /dev/vda /x; mkdir /sums
		for i in $(seq 150); do dd if=/dev/urandom of=/x/r.$i bs=1M count=1 status=none; sha256sum /x/r.$i >/sums/r.$i; done
		sync; echo 3 >/proc/sys/vm/drop_caches'
	guest '{ for i in $(seq 150); do cat /x/r.$i >/dev/null || touch /failed; sleep 0.04; done; touch /all; } >/dev/null 2>&1 &
		for i in 1 2; do (
			n=0
			while [[ ! -e /stop ]]; do
				n=$((n + 1))
				dd if=/dev/urandom of=/x/f$i.$n bs=64k count=$((1 + n * 7 % 23)) conv=fsync status=none || { touch /failed; exit; }
				sha256sum /x/f$i.$n >/sums/f$i.$n
				if ((n > 40)); then rm -f /x/f$i.$((n - 40)) /sums/f$i.$((n - 40)); fi
			done
			echo $n >/count.$i
		) & done >/dev/null 2>&1'
	qmp '{"execute":"qmp_capabilities"}'
	qmp '{"execute":"migrate-set-parameters","arguments":{"max-bandwidth":60000000,"downtime-limit":1000}}'
	qmp "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"exec:cat >$VM_RUN/state\"}}"
	until [[ $answer == *'"completed"'* ]]; do
		sleep 0.2
		qmp '{"execute":"query-migrate"}'
		[[ $answer != *'"failed"'* ]] || die "QEMU: $answer"
	done
	vm_kill here
	exec {qmp_in}>&- {qmp_out}>&-
	run_stop from || die "the daemon ended with status $?"
	assert_match "what the daemon was told" 'SET_LOG_BASE' "$(run_log from)"
	ok "moved: $(stat -c %s state) bytes of memory and devices"

	daemon to
	vm_start there --no-wait --memory 768M --disk "$VM_RUN/to.sock,2,$options" -- -incoming "exec:cat $VM_RUN/state"
	rm "$VM_RUN/there/booting" # it has booted, elsewhere
	guest -t 300 'for t in $(seq 1200); do [[ -e /all || -e /failed ]] && break; sleep 0.1; done; touch /stop
		for i in 1 2; do for t in $(seq 600); do [[ -e /count.$i || -e /failed ]] && break; sleep 0.1; done; done
		[[ ! -e /failed ]]; sync; sha256sum --quiet -c /sums/*
		echo 3 >/proc/sys/vm/drop_caches; sha256sum --quiet -c /sums/*
		umount /x; e2fsck -fn /dev/vda >/tmp/fsck 2>&1 || { cat /tmp/fsck; exit 1; }'
	local files bad
	files=$(guest 'cat /count.* | awk "{ n += \$1 } END { print n }"')
	bad=$(vm_dmesg there | grep -iE 'I/O error|blk_update|critical' | head -n 3 || true)
	[[ ! $bad ]] || die "the guest noticed: $bad"
	vm_sane there
	vm_stop there
	run_stop to || die "the daemon ended with status $?"
	rm -f "$VM_RUN"/here.qmp.*
	ok "$files files written before and after: hashes, e2fsck, dmesg"
}

moved split packed=off
moved packed packed=on
