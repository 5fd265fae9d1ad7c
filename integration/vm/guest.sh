# shellcheck shell=bash
# Drives guests in lock-step, so that a test reads from top to bottom. Source it
# in a script that has set -euo pipefail; it fetches what is missing (fetch.sh).
#
# Guests
#   vm_start NAME [OPTION...]    boots a guest and waits until it takes commands
#       --zoned SOCKET[,QUEUES]  a vhost-user disk by way of the generic device,
#                                the front-end that passes VIRTIO_BLK_F_ZONED
#       --disk SOCKET[,QUEUES[,DEVICE_OPTIONS]]
#                                a vhost-user disk by way of vhost-user-blk-pci
#       --reconnect MS           (after --disk or --zoned) QEMU reconnects
#       --add PATH[:IN_GUEST]    a file or folder to be in the guest (default: /)
#       --fio                    fio is to be in the guest
#       --kernel FOLDER          another kernel, from newest.sh
#       --memory SIZE            1G
#       --cpus N                 2
#       --append "WORDS"         more kernel arguments
#       --boot-timeout SECONDS   180: a boot takes 6 s, and 41 at a load of 10
#       --no-wait                returns at once; vm_wait NAME waits
#       -- ARGUMENT...           the rest goes to QEMU as it is
#   guest [-n NAME] [-t SECONDS] COMMAND
#                                runs COMMAND in the guest (bash -euo pipefail),
#                                prints its stdout and stderr as they are,
#                                returns its exit status; 124 if it took longer
#                                than SECONDS (300), 125 if the guest is gone or
#                                stuck; both show the end of the console log.
#                                Write to >&2, not >/dev/stderr: that is a file
#   guest_fails PATTERN COMMAND  COMMAND must fail and its output match (grep -E)
#   guest_push FILE IN_GUEST     copies a file into the running guest
#   vm_use NAME                  the guest that the functions mean when they are
#                                not told (the one started last)
#   vm_dmesg, vm_console [NAME]  the kernel's log; the console's, also of a dead one
#   vm_sane [NAME]               dies if the kernel has complained (BUG, WARNING,
#                                hung task …)
#   vm_reboot [NAME]             resets the guest, as a crash would, and waits until it
#                                takes commands again. Unmount first. It needs
#                                "-- -action reboot=reset" at vm_start
#   vm_stop [NAME]               powers off and waits for QEMU to end well.
#                                Unmount first; nothing is synced for you
#   vm_kill [NAME]               as if the power went
#
# Daemons on the host
#   run_start NAME COMMAND...    in the background, output to $VM_RUN/NAME.log
#   run_stop NAME [SIGNAL]       signal (TERM), wait, return its exit status
#   run_log NAME                 its output so far
#   run_says NAME PATTERN        whether its output so far has PATTERN (grep -E)
#
# What another process is about to do
#   await SECONDS WHAT COMMAND...
#                                runs COMMAND again and again until it succeeds.
#                                After SECONDS it dies: it names WHAT, and the ends
#                                of all logs follow. A test never looks once for what
#                                another process does: a log line, a socket, a
#                                count. SECONDS is a limit for a busy machine (120),
#                                not an expectation. Commands in a guest have an
#                                await of their own (guest/agent)
#   listening SOCKET             whether somebody listens on that path. A socket is
#                                there before its owner listens; zvhost's alone has
#                                its name from then on, and test -S will do
#
# Reporting
#   step TEXT                    what comes next
#   ok TEXT                      one thing held
#   die TEXT                     one thing did not; ends the test, with the ends of logs
#   assert_eq WHAT WANT GOT      both die if not, showing the difference
#   assert_match WHAT PATTERN GOT
#   ms_since TIME                milliseconds since TIME, an earlier $EPOCHREALTIME
#   When the script ends, however it does, everything that was started is ended,
#   $VM_RUN is removed (kept and named if ZVHOST_KEEP is set), and the last line
#   is "N passed, N failed".
#
# Variables
#   VM_DIR   from fetch.sh: kernel, initrd, bin/
#   VM_RUN   a folder for this run with a short name, for sockets and logs
# bin/ is put on PATH, so qemu-img and qemu-storage-daemon are just there.

_vm_src=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
VM_DIR=$("$_vm_src/fetch.sh")
PATH=$VM_DIR/bin:$PATH

# A socket's path holds 107 bytes, so a long TMPDIR will not do.
_vm_tmp=${TMPDIR:-/tmp}
if ((${#_vm_tmp} > 60)); then _vm_tmp=/tmp; fi
VM_RUN=$(mktemp -d "$_vm_tmp/zvm.XXXXXX")
printf '%s\n' "$$" >"$VM_RUN/owner"
# A run that was killed outright could not remove its folder; this one does. An
# owner that is not written yet belongs to a run that is just starting.
for _vm_old in "$_vm_tmp"/zvm.*/owner; do
	if [[ -O $_vm_old && -s $_vm_old ]] && ! kill -0 "$(<"$_vm_old")" 2>/dev/null; then
		rm -rf "${_vm_old%/owner}"
	fi
done

declare -A _vm_pid=() _vm_to=() _vm_from=() _run_pid=()
_vm_current='' _vm_step='' _vm_passed=0 _vm_failed=0

# --- reporting

step() {
	_vm_step=$*
	printf -- '--- %s\n' "$*"
}

ok() {
	_vm_passed=$((_vm_passed + 1))
	printf 'ok  %s\n' "$*"
}

# die counts in the exit trap, so that it counts from a subshell too.
die() {
	printf 'FAILED: %s\n' "$*" >&2
	exit 1
}

assert_eq() {
	[[ $2 == "$3" ]] && return
	diff -u --label wanted <(printf '%s\n' "$2") --label got <(printf '%s\n' "$3") | tail -n +3 | head -n 60 >&2 || true
	die "$1 is not what was wanted"
}

assert_match() {
	grep -qE -- "$2" <<<"$3" && return
	printf '%s\n' "$3" | tail -n 40 >&2
	die "$1 does not match $2"
}

ms_since() {
	local now=${EPOCHREALTIME/[.,]/} then=${1/[.,]/}
	printf '%d\n' $(((now - then) / 1000))
}

await() {
	local seconds=$1 what=$2
	local end=$((SECONDS + seconds))
	shift 2
	until "$@"; do
		((SECONDS < end)) || die "waited $seconds s in vain for $what: $*"
		sleep 0.05
	done
}

# Columns: number, references, protocol, flags (10000: it listens), type, state,
# inode, path.
listening() { awk -v path="$1" '$4 == "00010000" && $8 == path { found = 1 } END { exit !found }' /proc/net/unix; }

# --- daemons on the host

# _vm_own: what is started must be ended by this shell's exit trap, which a
# subshell does not have.
_vm_own() { [[ $BASHPID == "$$" ]] || die "$1 was called in a subshell: call it at the top level of the script"; }

# Linux kills the program when this shell dies without its traps (kill -9).
_vm_tether=()
if command -v setpriv >/dev/null; then _vm_tether=(setpriv --pdeathsig KILL); fi

run_start() {
	local name=$1
	shift
	_vm_own run_start
	if [[ ${_run_pid[$name]:-} ]]; then die "run_start $name: it runs already"; fi
	"${_vm_tether[@]}" "$@" </dev/null >>"$VM_RUN/$name.log" 2>&1 &
	_run_pid[$name]=$!
}

run_stop() {
	local name=$1 pid=${_run_pid[$1]:-} status=0
	if [[ ! $pid ]]; then die "run_stop $name: it was not started"; fi
	kill -s "${2:-TERM}" "$pid" 2>/dev/null || true
	_vm_reap "$pid" 300 || status=$?
	unset "_run_pid[$name]"
	if ((status == 255)); then
		kill -s KILL "$pid"
		wait "$pid" 2>/dev/null || true
		die "$name did not end within 300 s of SIG${2:-TERM}; its log ends: $(tail -n 5 "$VM_RUN/$name.log")"
	fi
	return "$status"
}

run_log() { cat "$VM_RUN/$1.log"; }
run_says() { grep -qE -- "$2" "$VM_RUN/$1.log"; }

# _vm_reap PID SECONDS: its exit status, or 255 if it goes on running.
_vm_reap() {
	local end=$((SECONDS + $2))
	while _vm_runs "$1"; do
		((SECONDS < end)) || return 255
		sleep 0.02
	done
	wait "$1" 2>/dev/null
}

# --- guests

vm_use() { _vm_current=$1; }

vm_start() {
	local name=$1 memory=1G cpus=2 append='' boot_timeout=180 wait=yes layers=("$VM_DIR/initrd") n=0
	local devices=() add=() spec socket queues options kernel=$VM_DIR/kernel
	shift
	_vm_own vm_start
	if [[ ${_vm_pid[$name]:-} ]]; then die "vm_start $name: it runs already"; fi
	while (($#)); do
		case $1 in
		--zoned | --disk)
			IFS=, read -r socket queues options <<<"$2"
			n=$((n + 1))
			if [[ ! -S $socket ]]; then die "vm_start $name: $socket is not a socket; is its back-end running?"; fi
			spec="socket,id=disk$n,path=$socket"
			if [[ ${3:-} == --reconnect ]]; then spec+=",reconnect-ms=$4"; fi
			devices+=(-chardev "$spec")
			# A vring of 128 entries and the whole of struct virtio_blk_config,
			# 96 bytes, which ends with the zoned fields.
			if [[ $1 == --zoned ]]; then
				devices+=(-device "vhost-user-test-device-pci,chardev=disk$n,virtio-id=2,num_vqs=${queues:-1},vq_size=128,config_size=96")
			else
				devices+=(-device "vhost-user-blk-pci,chardev=disk$n,num-queues=${queues:-1}${options:+,$options}")
			fi
			if [[ ${3:-} == --reconnect ]]; then shift 2; fi
			shift 2
			;;
		--add) add+=("$2") && shift 2 ;;
		--fio) layers+=("$VM_DIR/initrd.fio") && shift ;;
		--kernel) kernel=$2/kernel && layers+=("$2/layer") && shift 2 ;;
		--memory) memory=$2 && shift 2 ;;
		--cpus) cpus=$2 && shift 2 ;;
		--append) append=$2 && shift 2 ;;
		--boot-timeout) boot_timeout=$2 && shift 2 ;;
		--no-wait) wait='' && shift ;;
		--)
			shift
			devices+=("$@")
			break
			;;
		*) die "vm_start $name: unknown option $1" ;;
		esac
	done

	local dir=$VM_RUN/$name
	rm -rf "$dir"
	mkdir "$dir"
	if ((${#add[@]})); then
		_vm_layer "$dir" "${add[@]}"
		layers+=("$dir/add.cpio")
	fi
	# The kernel takes several archives one after the other.
	if ((${#layers[@]} > 1)); then cat "${layers[@]}" >"$dir/initrd"; else ln -s "${layers[0]}" "$dir/initrd"; fi

	# QEMU's pipe: it reads agent.in and writes agent.out. This shell holds both
	# ends of both, so opening never waits and a write finds a reader.
	mkfifo "$dir/agent.in" "$dir/agent.out"
	local to from
	exec {to}<>"$dir/agent.in" {from}<>"$dir/agent.out"
	_vm_to[$name]=$to _vm_from[$name]=$from

	# Kernel arguments: without mitigations, the ciphers' self-tests and the wait
	# for entropy a boot takes 1.7 s of processor time less (README.md). The whole
	# log goes to the console, which costs nothing to be measured. A panic ends
	# QEMU at once, and a hung task is named.
	local arguments="console=ttyS0 loglevel=7 panic=-1 oops=panic mitigations=off tsc=reliable no_timer_check"
	arguments+=" cryptomgr.notests random.trust_cpu=on sysctl.kernel.hung_task_timeout_secs=300 $append"
	# Without the old timer and interrupt controller the kernel takes the measure of its
	# clock from the HPET: from the PIT it got one up to ten times too fast where QEMU did
	# not run for a moment, and every time-out in the guest came too soon.
	"${_vm_tether[@]}" "$VM_DIR/bin/qemu-system-x86_64" -name "$name" \
		-nodefaults -no-user-config -display none -no-reboot \
		-machine q35,pic=off,pit=off,memory-backend=mem -accel tcg,thread=multi -cpu max -smp "$cpus" \
		-m "$memory" -object "memory-backend-memfd,id=mem,size=$memory,share=on" \
		-kernel "$kernel" -initrd "$dir/initrd" -append "$arguments" \
		-chardev "file,id=console,path=$dir/console" -serial chardev:console \
		-chardev "pipe,id=agent,path=$dir/agent" -device virtio-serial-pci \
		-device virtserialport,chardev=agent,name=zvhost \
		"${devices[@]}" {to}>&- {from}>&- </dev/null >"$dir/qemu.log" 2>&1 &
	_vm_pid[$name]=$!
	vm_use "$name"
	printf '%s\n' "$boot_timeout" >"$dir/booting"
	if [[ $wait ]]; then vm_wait "$name"; fi
}

# vm_wait NAME: until the guest takes commands; VM_BOOT_SECONDS says how long the
# guest's own clock has run by then.
vm_wait() {
	local name=$1 line='' dir=$VM_RUN/$1
	if ! _vm_line "$name" "$(<"$dir/booting")"; then
		_vm_gone "$name" "did not get as far as taking commands"
		die "guest $name did not boot"
	fi
	rm "$dir/booting"
	# shellcheck disable=SC2034  # for whoever wants to know
	read -r _ _ VM_BOOT_SECONDS <<<"$line"
}

guest() {
	local name=$_vm_current seconds=300 input='' OPTIND=1 option
	while getopts n:t:i: option; do
		case $option in
		n) name=$OPTARG ;;
		t) seconds=$OPTARG ;;
		i) input=$OPTARG ;;
		*) die "guest: see the head of guest.sh" ;;
		esac
	done
	shift $((OPTIND - 1))
	local dir=$VM_RUN/$name
	if [[ ! ${_vm_pid[$name]:-} ]]; then die "guest: no guest '$name' is running"; fi
	if [[ -e $dir/lost ]]; then die "guest $name was given up earlier"; fi

	# Lengths are in bytes, whatever the locale.
	local LC_ALL=C id=$BASHPID.$EPOCHREALTIME line='' input_bytes=0
	local answers status bytes kind output
	if [[ $input ]]; then input_bytes=$(stat -c %s "$input"); fi
	if ((${#1} + input_bytes < 30000)); then
		# Fits in the pipe: cannot block, needs no other process.
		printf 'run %s %s %s %s\n%s' "$id" "$seconds" "${#1}" "$input_bytes" "$1" >&"${_vm_to[$name]}"
		if [[ $input ]]; then cat "$input" >&"${_vm_to[$name]}"; fi
	else
		{
			printf 'run %s %s %s %s\n%s' "$id" "$seconds" "${#1}" "$input_bytes" "$1"
			if [[ $input ]]; then cat "$input"; fi
		} | timeout 120 cat >&"${_vm_to[$name]}" || true
	fi

	# The guest gives up on a command by itself, so a host that has to is facing a
	# guest that hangs.
	while _vm_line "$name" $((seconds + 20)); do
		read -r answers status bytes kind <<<"$line"
		# Short text is read here, anything else by a program; both are kept for
		# the exit trap, as the caller may not show it.
		if [[ $kind == text ]]; then
			output=
			if ((bytes)); then IFS= read -r -t 60 -N "$bytes" output <&"${_vm_from[$name]}" || break; fi
		else
			timeout 60 head -c "$bytes" <&"${_vm_from[$name]}" >"$dir/output" || break
		fi
		# An answer may be left over from a command whose caller was interrupted.
		if [[ $answers != "$id" ]]; then continue; fi
		if [[ $kind == text ]]; then printf '%s' "$output"; else cat "$dir/output"; fi
		if ((status)); then
			printf '%s\n' "$1" >"$dir/failed"
			if [[ $kind == text ]]; then printf '%s\n' "$output" >"$dir/output"; fi
		elif [[ -e $dir/failed ]]; then
			rm "$dir/failed"
		fi
		if ((status == 124)); then _vm_gone "$name" "took longer than $seconds s for: $1" alive; fi
		return "$status"
	done
	touch "$dir/lost"
	_vm_gone "$name" "gave no answer to: $1"
	return 125
}

guest_push() { guest -i "$1" "cat >'$2'"; }

guest_fails() {
	local output status=0
	output=$(guest "$2") || status=$?
	((status == 0)) && die "this was to fail in the guest: $2"
	((status == 125)) && die "the guest is gone"
	assert_match "the output of '$2'" "$1" "$output"
}

vm_console() { tr -d '\r' <"$VM_RUN/${1:-$_vm_current}/console"; }
vm_dmesg() { guest -n "${1:-$_vm_current}" dmesg; }

vm_sane() {
	local bad
	bad=$(vm_dmesg "${1:-$_vm_current}" |
		grep -E 'BUG|WARNING: |Oops|blocked for more than|soft lockup|general protection' | head -n 5 || true)
	[[ ! $bad ]] || die "the guest's kernel complains: $bad"
}

vm_stop() {
	local name=${1:-$_vm_current} status=0
	local pid=${_vm_pid[$name]:-}
	_vm_own vm_stop
	if [[ ! $pid ]]; then die "vm_stop $name: it does not run"; fi
	printf 'off\n' >&"${_vm_to[$name]}"
	_vm_reap "$pid" 300 || status=$?
	if ((status)); then
		_vm_gone "$name" "did not power off (status $status)"
		_vm_end "$name"
		die "guest $name did not power off"
	fi
	_vm_end "$name"
}

vm_reboot() {
	local name=${1:-$_vm_current}
	printf '180\n' >"$VM_RUN/$name/booting"
	guest -n "$name" '(sleep 0.5; echo b >/proc/sysrq-trigger) >&- 2>&- &'
	vm_wait "$name"
}

vm_kill() { _vm_end "${1:-$_vm_current}"; }

# _vm_end NAME: QEMU is gone after it; the logs stay.
_vm_end() {
	local pid=${_vm_pid[$1]:-} to=${_vm_to[$1]:-} from=${_vm_from[$1]:-}
	if [[ ! $pid ]]; then return 0; fi
	kill -s KILL "$pid" 2>/dev/null || true
	wait "$pid" 2>/dev/null || true
	exec {to}>&- {from}>&-
	unset "_vm_pid[$1]" "_vm_to[$1]" "_vm_from[$1]"
}

# _vm_line NAME SECONDS: sets line to the next line that the agent sends; fails
# when QEMU ends or the time is up. A line may come in parts.
_vm_line() {
	local part end=$((SECONDS + $2))
	line=
	until IFS= read -r -t 0.5 part <&"${_vm_from[$1]}"; do
		line+=$part
		_vm_runs "${_vm_pid[$1]}" && ((SECONDS < end)) || return 1
	done
	line+=$part
}

# _vm_runs PID: false for a zombie too, which kill -0 takes for a process.
_vm_runs() {
	local stat
	{ read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
	[[ ${stat##*) } != Z* ]]
}

# _vm_gone NAME WHAT [alive]: says what became of a guest, with the end of its logs.
_vm_gone() {
	local dir=$VM_RUN/$1
	{
		printf 'guest %s %s\n' "$1" "$2"
		if [[ ! ${3:-} ]] && ! _vm_runs "${_vm_pid[$1]}"; then printf 'QEMU has ended.\n'; fi
		if [[ -s $dir/qemu.log ]]; then sed 's/^/  qemu:    /' "$dir/qemu.log" | tail -n 20; fi
		if [[ -s $dir/console ]]; then vm_console "$1" | sed 's/^/  console: /' | tail -n 60; fi
	} >&2
}

# _vm_layer DIR PATH[:IN_GUEST]...: an archive of files to be added.
_vm_layer() {
	local dir=$1 spec from to
	shift
	mkdir "$dir/add"
	for spec in "$@"; do
		from=${spec%%:*} to=${spec#"${spec%%:*}"}
		to=${to#:}
		to=${to#/}
		if [[ ! -e $from ]]; then die "vm_start --add: there is no $from"; fi
		if [[ ! $to || $to == */ ]]; then to=$to${from##*/}; fi
		# In the guest these are links into /usr, which a folder of the same
		# name in a later archive would replace.
		if [[ $to =~ ^(bin|sbin|lib|lib64)/ ]]; then to=usr/$to; fi
		mkdir -p "$dir/add/$(dirname "$to")"
		cp -RL "$from" "$dir/add/$to"
	done
	(cd "$dir/add" && find . -mindepth 1 | sort | "$VM_DIR/bin/cpio" -o -H newc -R 0:0 2>/dev/null) >"$dir/add.cpio"
	rm -rf "$dir/add"
}

# --- the end

_vm_exit() {
	local status=$? name
	trap - EXIT
	for name in "${!_vm_pid[@]}"; do
		if ((status)) && [[ -s $VM_RUN/$name/failed ]]; then
			printf 'The last command in guest %s failed:\n' "$name" >&2
			head -n 20 "$VM_RUN/$name/failed" | sed 's/^/  /' >&2
			printf 'Its output ended:\n' >&2
			tail -n 15 "$VM_RUN/$name/output" | sed 's/^/  /' >&2
		fi
		if ((status)) && [[ -s $VM_RUN/$name/console ]]; then
			vm_console "$name" | tail -n 15 | sed "s/^/  $name: /" >&2
		fi
		_vm_end "$name"
	done
	for name in "${!_run_pid[@]}"; do
		if ((status)); then tail -n 15 "$VM_RUN/$name.log" | sed "s/^/  $name: /" >&2; fi
		kill -s KILL "${_run_pid[$name]}" 2>/dev/null || true
		wait "${_run_pid[$name]}" 2>/dev/null || true
	done
	if ((status)); then
		_vm_failed=$((_vm_failed + 1))
		printf 'FAILED%s (status %d)\n' "${_vm_step:+ at: $_vm_step}" "$status" >&2
	fi
	if [[ ${ZVHOST_KEEP:-} ]]; then rm "$VM_RUN/owner" && printf 'kept: %s\n' "$VM_RUN" >&2; else rm -rf "$VM_RUN"; fi
	printf '%d passed, %d failed\n' "$_vm_passed" "$_vm_failed"
	exit "$status"
}
trap _vm_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
