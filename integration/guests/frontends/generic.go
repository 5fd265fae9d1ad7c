package main

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/integration/vm"
)

// generic: a guest with more processors than its disks have queues, and fewer queues
// than the daemons offer. SeaBIOS sees the disks first.
func generic(h *vm.Host) (err error) {
	if _, err := h.Command("create", h.Path("zoned.zvh"), "--size", "64M", "--zone-size", "4M"); err != nil {
		return err
	}
	zoned, err := h.Serve(vm.ServeOptions{Name: "zoned", File: h.Path("zoned.zvh"), Args: []string{"--queues", "4"}})
	if err != nil {
		return err
	}
	plain, err := ordinary(h, "plain", "--queues", "4", args)
	if err != nil {
		return err
	}
	g, err := h.Boot(vm.Options{Name: "generic", CPUs: 4, MemoryMiB: 512, Disks: []vm.Disk{
		{ID: "zoned", Socket: zoned.Socket, Queues: 2, Generic: true},
		{ID: "plain", Socket: plain.Socket, Queues: 2, Generic: true, Removable: true},
	}})
	if err != nil {
		return err
	}
	for _, check := range []func() error{
		func() error { return fewerQueues(h, g) },
		func() error { return firmware(h, g, zoned) },
		func() error { return synced(h, g, plain) },
		func() error { return plugged(h, g, plain) },
	} {
		err = errors.Join(err, check()) // each has something of its own to say
	}
	return errors.Join(err, g.Sane(), g.PowerOff(), zoned.End(unix.SIGTERM), plain.End(unix.SIGTERM))
}

// fewerQueues: the guest has both disks, with two queues of the daemon's four.
func fewerQueues(h *vm.Host, g *vm.Guest) error {
	got, err := g.Run("for d in vda vdb; do ls /sys/block/$d/mq | wc -l; cat /sys/block/$d/queue/zoned; done")
	if err != nil {
		return err
	}
	if want := "2\nhost-managed\n2\nnone"; got != want {
		return fmt.Errorf("queues and kinds of the two disks: %q, not %q", got, want)
	}
	// Each processor's requests come through.
	if _, err := g.Run(`for cpu in 0 1 2 3; do
			busybox taskset $((1 << cpu)) dd if=/dev/urandom of=/dev/vdb bs=4k count=1 seek=$cpu oflag=direct conv=notrunc status=none
			busybox taskset $((1 << cpu)) dd if=/dev/vda of=/dev/null bs=4k count=1 skip=$cpu iflag=direct status=none
		done`); err != nil {
		return err
	}
	h.OK("4 processors, 4 queues offered, 2 set up: the guest gets its disks with 2")
	return nil
}

// firmware: it cannot use a zoned disk, and nobody is warned of that.
func firmware(h *vm.Host, g *vm.Guest, zoned *vm.Daemon) error {
	if _, err := g.Run("blkzone report /dev/vda >/dev/null"); err != nil {
		return err
	}
	for line := range strings.Lines(zoned.Log()) {
		if strings.Contains(line, " warning ") || strings.Contains(line, " error ") {
			return fmt.Errorf("a zoned boot through SeaBIOS logs: %s", line)
		}
	}
	h.OK("a zoned boot through SeaBIOS logs no warning")
	return nil
}

// synced: an fsync in the guest is one on the host, though SeaBIOS had the disk first.
func synced(h *vm.Host, g *vm.Guest, plain *vm.Daemon) error {
	if _, err := g.Run("mkfs.ext4 -q /dev/vdb; mount -t ext4 /dev/vdb /mnt"); err != nil {
		return err
	}
	n, err := syncsOf(plain, func() error {
		_, err := g.Run("for i in $(seq 20); do dd if=/dev/urandom of=/mnt/$i bs=4k count=1 conv=fsync status=none; done")
		return err
	})
	if err != nil {
		return err
	}
	if _, err := g.Run("umount /mnt"); err != nil {
		return err
	}
	if n < 20 {
		return fmt.Errorf("20 times write and fsync on ext4 make %d syncs of the disk", n)
	}
	h.OK("ext4, SeaBIOS in front: 20 times write and fsync make %d syncs", n)
	return nil
}

// plugged: the device is taken out of the machine and put in again, on the same
// connection.
func plugged(h *vm.Host, g *vm.Guest, plain *vm.Daemon) error {
	disk := vm.Disk{ID: "plain", Socket: plain.Socket, Queues: 2, Generic: true, Removable: true}
	for round := range 2 {
		if _, err := g.Run("dd if=/dev/urandom of=/tmp/data bs=1M count=2 status=none; dd if=/tmp/data of=/dev/vdb bs=1M oflag=direct conv=notrunc status=none"); err != nil {
			return err
		}
		if err := g.Unplug(disk.ID); err != nil {
			return err
		}
		if _, err := g.Run("gone() { [[ ! -e /sys/block/vdb ]]; }; await 120 'the end of the disk' gone"); err != nil {
			return err
		}
		if err := g.QMP.Do("device_add", disk.Device(), nil); err != nil {
			return err
		}
		if _, err := g.Run("await 120 'the disk' test -b /dev/vdb; cmp /tmp/data <(dd if=/dev/vdb bs=1M count=2 iflag=direct status=none)"); err != nil {
			return fmt.Errorf("plugged in again, round %d: %w", round+1, err)
		}
	}
	h.OK("device_del and device_add on the same chardev: the guest gets its disk again, with its data")
	return nil
}

// syncsOf counts the syncs of what f does.
func syncsOf(d *vm.Daemon, f func() error) (int, error) {
	before, err := d.Syncs()
	if err == nil {
		err = f()
	}
	if err != nil {
		return 0, err
	}
	after, err := d.Syncs()
	return after - before, err
}
