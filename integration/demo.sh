#!/usr/bin/env bash
# make demo: a guest uses a zoned disk that zvhost serves, on one screen. Ends
# with status 0 only if all of it held.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
zvhost=$(realpath -m "${1:-$here/../bin/zvhost}")
[[ -x $zvhost ]] || { echo "demo.sh: $zvhost is not there: run 'make build' first" >&2; exit 1; }
# shellcheck source=integration/vm/guest.sh
source "$here/vm/guest.sh"
cd "$VM_RUN"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[[ -t 1 ]] || say() { printf '\n%s\n' "$*"; }
show() { printf '  $ %s\n' "$*"; }

# zones WHEN   the guest's report must be the host's; prints it summed up and drawn
zones() {
	guest 'blkzone report /dev/vda' > guest.zones
	"$zvhost" report disk.zvh > host.zones
	cmp -s guest.zones host.zones || die "zones $1: guest and host differ: $(diff guest.zones host.zones | head -n 4)"
	printf '  guest: %s\n' "$(sed -n 's/.*zcond: *[0-9]*(\(..\)).*/\1/p' guest.zones | sort | uniq -c |
		awk '{ printf "%s%d %s", sep, $1, name[$2] ? name[$2] : $2; sep = ", " } END { print " (blkzone report)" }
			BEGIN { name["nw"] = "conventional"; name["em"] = "empty"; name["oi"] = "implicitly open"; name["oe"] = "explicitly open"; name["cl"] = "closed"; name["fu"] = "full" }')"
	printf '  host:  the same, zone for zone (zvhost report --map)\n'
	"$zvhost" report --map disk.zvh | tail -n +2
}

start=$EPOCHREALTIME
say 'A zoned disk in a file, and a daemon that serves it'
show 'zvhost create disk.zvh --size 2G --zone-size 32M --zone-capacity 24M --conventional 2 --max-open 12 --max-active 14'
printf '  %s\n' "$("$zvhost" create disk.zvh --size 2G --zone-size 32M --zone-capacity 24M --conventional 2 --max-open 12 --max-active 14)"
show 'zvhost serve --socket-path vm.sock --blk-file disk.zvh &'
run_start zvhost "$zvhost" serve --socket-path "$VM_RUN/vm.sock" --blk-file disk.zvh
await 120 'the socket' test -S vm.sock
show 'qemu-system-x86_64 … -device vhost-user-test-device-pci,chardev=zv,virtio-id=2,config_size=96,…'
vm_start demo --zoned "$VM_RUN/vm.sock"

say 'What the guest sees'
printf '  %s\n' "$(guest 'uname -sr')"
guest 'dmesg | grep "virtio_blk.*\[vda\]"' | sed 's/^/  /'
guest 'lsblk -z -o NAME,ZONED,ZONE-SZ,ZONE-NR,ZONE-AMAX,ZONE-OMAX,ZONE-APP /dev/vda' | sed 's/^/  /'
say 'The zones before'
zones before

say 'btrfs on it: four writers at once, then unmount, mount and check'
show 'mkfs.btrfs /dev/vda; mount /dev/vda /mnt; …'
guest 'mkfs.btrfs -q -f -O zoned /dev/vda; mkdir -p /mnt; mount /dev/vda /mnt; cd /mnt
	for i in 1 2 3 4; do dd if=/dev/urandom of=file$i bs=1M count=$((9 * i)) conv=fsync status=none & done; wait
	sha256sum file* > /tmp/sums; cd /; umount /mnt; mount /dev/vda /mnt; cd /mnt; sha256sum -c /tmp/sums; cd /; umount /mnt' > sums
[[ $(grep -c ': OK$' sums) == 4 ]] || die "hashes: $(cat sums)"
printf '  %s\n' "$(tr '\n' ' ' < sums)"

say 'The zones after'
zones after
vm_sane
vm_stop
run_stop zvhost
"$zvhost" check disk.zvh > check.log || die "check: $(cat check.log)"
printf '  zvhost check %s\n' "$(cat check.log)"
ok "all of it held, in $((($(ms_since "$start") + 500) / 1000)) s"
