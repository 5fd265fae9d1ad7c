#!/usr/bin/env bash
# A guest that writes is moved to another QEMU and another daemon, all four alive at
# once: ext4 on an ordinary disk behind the stock vhost-user-blk-pci. Its memory goes
# through a socket while it runs on and the daemon marks what it writes in the dirty
# log. The first attempt is cancelled when the guest has stopped and the daemon at the
# source has released the disk: it goes on there. When it has moved, the source is
# told to go on as well, and must not.
#
# A missing dirty mark shows: built without those of what a request reads (written in
# virtio/log.go), files read while it moved had wrong hashes afterwards. For that the
# guest's kernel must not zero pages as it allocates them, which has QEMU send them
# again, and its free pages must not have the right content already.
#
#   integration/guests/migrate.sh [ZVHOST]
set -euo pipefail
# shellcheck source=integration/guests/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

declare -A qmp_in=() qmp_out=()

# monitor NAME   makes the pipe of QEMU NAME's monitor, for qmp
monitor() {
	local in out
	rm -f "$VM_RUN/$1.qmp.in" "$VM_RUN/$1.qmp.out"
	mkfifo "$VM_RUN/$1.qmp.in" "$VM_RUN/$1.qmp.out"
	exec {in}<>"$VM_RUN/$1.qmp.in" {out}<>"$VM_RUN/$1.qmp.out"
	qmp_in[$1]=$in qmp_out[$1]=$out
}

# end NAME   ends QEMU NAME and its monitor
end() {
	local in=${qmp_in[$1]} out=${qmp_out[$1]}
	vm_kill "$1"
	exec {in}>&- {out}>&-
}

# qmp NAME JSON   sends a command to a monitor and sets answer to what it says
qmp() {
	printf '%s\n' "$2" >&"${qmp_in[$1]}"
	while IFS= read -r -t 120 answer <&"${qmp_out[$1]}"; do
		case $answer in
		*'"error"'*) die "QEMU's monitor: $2: $answer" ;;
		*'"return"'*) return ;;
		esac
	done
	die "QEMU's monitor does not answer: $2"
}

# until_migration STATUS   waits until that of here has it
until_migration() {
	local end=$((SECONDS + 600))
	until [[ $answer == *"\"status\": \"$1\""* ]]; do
		((SECONDS < end)) || die "the migration does not get to $1: $answer"
		sleep 0.2
		qmp here '{"execute":"query-migrate"}'
		[[ $answer != *'"status": "failed"'* ]] || die "QEMU: $answer"
	done
}

# daemon NAME [OPTION...]   one that serves disk.raw on the socket NAME.sock
daemon() {
	run_start "$1" "$zvhost" serve --debug --socket-path "$VM_RUN/$1.sock" --blk-file "$VM_RUN/disk.raw" --queues 2 "${@:2}"
	await 120 "the socket of daemon $1" test -S "$VM_RUN/$1.sock"
}

# migrate DEVICE_OPTIONS PAUSE   starts the QEMU to go to, and the migration; PAUSE
# (true or false) is whether it stands still when the guest has stopped
migrate() {
	monitor there
	vm_start there --no-wait --memory 768M --disk "$VM_RUN/to.sock,2,$1" -- \
		-qmp "pipe:$VM_RUN/there.qmp" -incoming "unix:$VM_RUN/there.migration"
	rm "$VM_RUN/there/booting" # it has booted, elsewhere
	await 120 "the QEMU to go to" listening "$VM_RUN/there.migration"
	vm_use here
	qmp here "{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":[{\"capability\":\"pause-before-switchover\",\"state\":$2}]}}"
	qmp here "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"unix:$VM_RUN/there.migration\"}}"
}

# moved RINGS DEVICE_OPTIONS   the whole course; RINGS says it in words
moved() {
	local rings=$1 options=$2
	step "a guest moves while it writes, $rings rings"
	rm -f disk.raw ./*.log
	truncate -s 1G disk.raw
	daemon from
	monitor here
	vm_start here --memory 768M --append init_on_alloc=0 --disk "$VM_RUN/from.sock,2,$options" -- -qmp "pipe:$VM_RUN/here.qmp"
	# Files that will be read once, while it moves: what the daemon puts into memory
	# then stays in the page cache, and is looked at when it has moved.
	guest -t 300 'mkfs.ext4 -q /dev/vda; mkdir /x; mount -t ext4 /dev/vda /x; mkdir /sums
		for i in $(seq 150); do dd if=/dev/urandom of=/x/r.$i bs=1M count=1 status=none; sha256sum /x/r.$i >/sums/r.$i; done
		sync; echo 3 >/proc/sys/vm/drop_caches; mkdir /m; mount -t tmpfs -o size=90% none /m
		dd if=/dev/zero of=/m/z bs=1M count=$(awk "/^MemFree/ { print int(\$2 / 1280) }" /proc/meminfo) status=none; umount /m'
	guest 'for i in 1 2; do (
			n=0
			while [[ ! -e /stop ]]; do
				n=$((n + 1))
				dd if=/dev/urandom of=/x/f$i.$n bs=64k count=$((1 + n * 7 % 23)) conv=fsync status=none || { touch /failed; exit; }
				sha256sum /x/f$i.$n >/sums/f$i.$n
				echo $n >/new.$i; mv /new.$i /count.$i # whole, for whoever reads it meanwhile
				if ((n > 40)); then rm -f /x/f$i.$((n - 40)) /sums/f$i.$((n - 40)); fi
			done
			touch /ended.$i
		) & done >/dev/null 2>&1'
	daemon to --incoming
	qmp here '{"execute":"qmp_capabilities"}'
	qmp here '{"execute":"migrate-set-parameters","arguments":{"max-bandwidth":60000000,"downtime-limit":1000}}'

	migrate "$options" true
	until_migration pre-switchover
	await 120 "the daemon that the guest stopped at" run_says from 'the disk is released'
	qmp here '{"execute":"migrate_cancel"}'
	until_migration cancelled
	end there
	await 120 "the disk back at the source" run_says from 'the disk is acquired'
	local before
	before=$(guest 'cat /count.*')
	guest "further() { [[ -e /failed || \"\$(cat /count.*)\" != '$before' ]]; }; await 280 'more files' further; [[ ! -e /failed ]]"
	if run_says to 'the disk is acquired'; then die "the daemon at the other end has taken the disk"; fi
	ok "cancelled when it had stopped: the guest writes on"

	guest '{ for i in $(seq 150); do cat /x/r.$i >/dev/null || touch /failed; sleep 0.04; done; touch /all; } >/dev/null 2>&1 &'
	migrate "$options" false
	until_migration completed
	await 120 "the dirty log at the source" run_says from SET_LOG_BASE
	await 120 "the disk at the daemon that it has come to" run_says to 'the disk is acquired'
	ok "moved in $(sed -E 's/.*"total-time": ([0-9]+).*/\1/' <<<"$answer") ms, of which it stood still for $(sed -E 's/.*"downtime": ([0-9]+).*/\1/' <<<"$answer")"

	qmp here '{"execute":"cont"}'
	await 120 "the source to be refused" run_says from 'the requests of the guest stay in its queues'
	end here
	run_stop from || die "the daemon ended with status $?"
	ok "started at the source as well: refused"

	vm_use there
	guest -t 1200 'all() { [[ -e /failed || -e /all ]]; }; ended() { [[ -e /failed || ( -e /ended.1 && -e /ended.2 ) ]]; }
		await 600 "the reader" all; touch /stop; await 280 "the writers" ended
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
	ok "$files files written before and after: hashes, e2fsck, dmesg"
}

moved split packed=off
moved packed packed=on
