#!/usr/bin/env bash
# Zones that go bad under a mounted btrfs: one whose appends fail, one that goes
# offline, one that becomes read-only, and one under the metadata whose writes
# fail. The guest sees errors where it must and nowhere else; what is good again
# is as it was.
#
#   integration/guests/faults.sh [ZVHOST]
set -euo pipefail
# shellcheck source=integration/guests/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

zone_sectors=16384 # 8 MiB

step "zones that go bad under a mounted btrfs"
for name in bad good; do
	create "$name" --size 512M --zone-size 8M --block-size 4096 --max-active 20
	serve "$name" 2
done
vm_start faults --zoned "$VM_RUN/bad.sock,2" --zoned "$VM_RUN/good.sock,2"

control() { "$zvhost" "$@" >control.log 2>&1 || die "zvhost $*: $(<control.log)"; }
set_state() { control zone set-state "$VM_RUN/bad.control" "$1" "$2"; }

# put FILE MIB: a new file, synced, and its hash noted
written=()
put() {
	written+=("$1")
	guest "cd /bad; dd if=/dev/urandom of=$1 bs=1M count=$2 conv=fsync status=none; sha256sum $1 >>/tmp/sums"
}

# zones_of FILE: the zones that hold it: its extents in btrfs's own addresses, and
# where those chunks stand on the disk
zones_of() {
	guest 'btrfs inspect-internal dump-tree -t chunk /dev/vda' |
		sed -n 's/.*FIRST_CHUNK_TREE CHUNK_ITEM \([0-9]*\)).*/chunk \1/p; s/.*stripe 0 devid 1 offset \([0-9]*\).*/at \1/p' >chunks
	guest "xfs_io -r -c fiemap /bad/$1" | sed -n 's/.*\]: \([0-9]*\)\.\..*/\1/p' >extents
	local extent word value chunk=0
	while read -r extent; do
		while read -r word value; do
			if [[ $word == chunk ]]; then
				chunk=$((value / 512))
			elif ((extent >= chunk && extent < chunk + zone_sectors)); then
				echo $((value / 512 / zone_sectors))
			fi
		done <chunks
	done <extents | sort -nu
}

# intact [ZONE]: all files that the zone holds nothing of are what was written, read
# from the disk
intact() {
	local file files=()
	for file in "${written[@]}"; do
		if [[ ! ${1:-} ]] || ! zones_of "$file" | grep -x "$1" >/dev/null; then files+=("$file"); fi
	done
	((${#files[@]} > 0)) || die "every file is in zone $1"
	guest "echo 3 >/proc/sys/vm/drop_caches; cd /bad; for f in ${files[*]}; do grep \" \$f\$\" /tmp/sums; done | sha256sum --status -c" ||
		die "of ${files[*]} some have suffered, though zone ${1:-none} alone is bad"
}

# only_in ZONE: since the last call the guest's kernel has seen I/O errors, in that zone
# and nowhere else. It traces them: its log has ten in five seconds at most.
tracing=/sys/kernel/tracing
only_in() {
	local dev sector errors=0
	guest "cat $tracing/trace; echo >$tracing/trace" >trace
	# dd-411 [001] ..s1. 9.999549: block_rq_error: 254,0 ZA () 212992 + 1008 be,0,4 [-5]
	sed -n 's/.* block_rq_error: \([0-9]*\),\([0-9]*\) .* () \([0-9]*\) + .*/\1:\2 \3/p' trace >errors
	while read -r dev sector; do
		[[ $dev == "$bad" ]] || die "the other disk has errors: $(<errors)"
		((sector / zone_sectors == $1)) || die "an error at sector $sector, which is not in zone $1: $(<errors)"
		errors=$((errors + 1))
	done <errors
	((errors > 0)) || die "the kernel has seen no error in zone $1: $(tail -n 5 trace)"
}

guest "[ -e $tracing/trace ] || mount -t tracefs tracefs $tracing; echo 1 >$tracing/events/block/block_rq_error/enable"
bad=$(guest 'cat /sys/block/vda/dev')
guest 'for d in vda,bad vdb,good; do mkfs.btrfs -q -f -O zoned /dev/${d%,*}; mkdir /${d#*,}; mount /dev/${d%,*} /${d#*,}; done'
put a 12
put b 12
mapfile -t of_a < <(zones_of a)
mapfile -t of_b < <(zones_of b)
((${#of_a[@]} > 1 && ${#of_b[@]} > 1)) || die "btrfs has put the files into zones ${of_a[*]} and ${of_b[*]}"
ok "files in zones ${of_a[*]} and ${of_b[*]}"

# The zone that a megabyte in one piece goes to now.
put probe 1
current=$(zones_of probe | tail -n 1)
control fault add "$VM_RUN/bad.control" "append,zone=$current,once"
guest_fails 'Input/output error' 'dd if=/dev/urandom of=/bad/lost bs=1M count=1 conv=fsync'
only_in "$current"
"$zvhost" fault list "$VM_RUN/bad.control" >faults.list
assert_match "the list of faults" "^1 +1 +append" "$(<faults.list)"
intact
put c 1
intact
ok "an append that fails costs its file, and the next one is written"

full=${of_a[0]}
set_state "$full" offline
guest_fails 'Input/output error' 'echo 3 >/proc/sys/vm/drop_caches; cat /bad/a >/dev/null'
only_in "$full"
intact "$full"
put d 2
intact "$full"
guest "blkzone report -o $((full * zone_sectors)) -c 1 /dev/vda | grep -q '(of)'" || die "zone $full is not reported offline"
set_state "$full" writable
intact
ok "a zone offline costs the file that it holds, until it is back"

put e 1
current=$(zones_of e | tail -n 1)
set_state "$current" read-only
intact
guest_fails 'Input/output error' 'dd if=/dev/urandom of=/bad/lost bs=1M count=1 conv=fsync'
only_in "$current"
intact
set_state "$current" writable
put f 1
intact
ok "a read-only zone is read as before, and takes no more"

guest 'cd /good; dd if=/dev/urandom of=x bs=1M count=4 conv=fsync status=none; sha256sum x >sums; sync'
control fault add "$VM_RUN/bad.control" write
guest 'cd /bad; touch more; sync' >sync.log 2>&1 || true
guest_fails 'Read-only file system|Input/output error' 'touch /bad/still'
guest 'cd /good; sha256sum --status -c sums; dd if=/dev/urandom of=y bs=1M count=1 conv=fsync status=none'
guest 'umount /bad'
control fault clear "$VM_RUN/bad.control"
guest 'mount /dev/vda /bad'
intact
put g 2
guest 'btrfs scrub start -B /bad >/tmp/scrub; grep -q "no errors found" /tmp/scrub || { cat /tmp/scrub; exit 1; }
	for d in bad good; do cd /; umount /$d; done'
ok "metadata that cannot be written makes btrfs read-only; mounted anew it has all that was synced"

same_zones a bad.zvh "at the end"
same_zones b good.zvh "at the end"
vm_stop
retire bad
retire good
ok "the images are sound"
