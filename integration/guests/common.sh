# shellcheck shell=bash
# What the guest tests share. Source it with the zvhost to be tested as $1
# (default: bin/zvhost, as make build makes it); it sources ../vm/guest.sh and
# changes into $VM_RUN.

guests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
zvhost=$(realpath -m "${1:-$guests/../../bin/zvhost}")
[[ -x $zvhost ]] || { echo "${0##*/}: $zvhost is not there: run 'make build' first" >&2; exit 1; }
repository=$(realpath "$guests/../..")
# shellcheck source=integration/vm/guest.sh
source "$guests/../vm/guest.sh"
cd "$VM_RUN" || exit

# create NAME OPTION...   makes the image NAME.zvh
create() {
	"$zvhost" create "$VM_RUN/$1.zvh" "${@:2}" >"$1.create" 2>&1 || die "create $1: $(<"$1.create")"
}

# serve NAME QUEUES [OPTION...]   a daemon for NAME.zvh, on the sockets NAME.sock and
# NAME.control
serve() {
	run_start "$1" "$zvhost" serve --socket-path "$VM_RUN/$1.sock" --control-path "$VM_RUN/$1.control" \
		--blk-file "$VM_RUN/$1.zvh" --queues "$2" --serial "$1" "${@:3}"
	wait_for 20 "the socket of daemon $1" test -S "$VM_RUN/$1.sock"
}

# retire NAME   ends the daemon; the image must be sound
retire() {
	run_stop "$1" || die "daemon $1 ended with status $?"
	"$zvhost" check "$VM_RUN/$1.zvh" >"$1.check" || die "check of $1: $(<"$1.check")"
}

# build NAME PACKAGE   a program for guests, static, as $VM_RUN/NAME
build() { (cd "$repository" && CGO_ENABLED=0 go build -trimpath -o "$VM_RUN/$1" "./$2"); }
