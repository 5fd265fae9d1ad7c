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
	await 120 "the socket of daemon $1" test -S "$VM_RUN/$1.sock"
}

# retire NAME   ends the daemon; the image must be sound
retire() {
	run_stop "$1" || die "daemon $1 ended with status $?"
	"$zvhost" check "$VM_RUN/$1.zvh" >"$1.check" || die "check of $1: $(<"$1.check")"
}

# same_zones LETTER IMAGE WHEN   the guest's report of /dev/vdLETTER and the host's of
# IMAGE, left in guest.zones and host.zones, are the same line by line. A file system
# that is mounted may write between the two: they count if the host's stayed the same
# around the guest's.
same_zones() {
	local _
	for _ in {1..100}; do
		"$zvhost" report "$2" >before.zones
		guest "blkzone report /dev/vd$1" >guest.zones
		"$zvhost" report "$2" >host.zones
		if cmp -s before.zones host.zones; then break; fi
	done
	diff guest.zones host.zones >zones.diff || die "zones of /dev/vd$1 $3 (guest <, host >): $(head -n 6 zones.diff)"
}

# build NAME PACKAGE   a program for guests, static, as $VM_RUN/NAME
build() { (cd "$repository" && CGO_ENABLED=0 go build -trimpath -o "$VM_RUN/$1" "./$2"); }
