package main

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/integration/vm"
)

// through has the guest choose write-through, as an administrator does. Linux sends no
// flush from then on: who takes the choice back by himself loses what was synced.
const through = "echo 'write through' >/sys/block/vda/cache_type; [[ $(cat /sys/block/vda/queue/write_cache) == 'write through' ]]"

// three writes three blocks, each stable when it is answered. The disk is a write-through
// one to the guest's block layer, or the fsync would be a flush.
const three = "[[ $(cat /sys/block/vda/queue/write_cache) == 'write through' ]]; dd if=/dev/urandom of=/dev/vda bs=4k count=3 oflag=direct conv=notrunc,fsync status=none"

// stable: each of the three writes is synced by the daemon that serves now.
func stable(h *vm.Host, g *vm.Guest, d *vm.Daemon, after string) error {
	n, err := syncsOf(d, func() error { _, err := g.Run(three); return err })
	if err != nil {
		return fmt.Errorf("%s: %w", after, err)
	}
	if n < 3 {
		return fmt.Errorf("%s: 3 writes through make %d syncs", after, n)
	}
	h.OK("%s: 3 writes through make %d syncs", after, n)
	return nil
}

const args = "--aio=threads" // syncs are system calls then

// block: the guest has chosen write-through, and is served so whatever happens. In the
// end memory is plugged in.
func block(h *vm.Host) error {
	d, err := ordinary(h, "blk", args)
	if err != nil {
		return err
	}
	g, err := h.Boot(vm.Options{Name: "block", MemoryMiB: 512, MostMiB: 2048, Append: "memhp_default_state=online_movable",
		Disks: []vm.Disk{{ID: "blk", Socket: d.Socket, ReconnectMS: 100}}})
	if err != nil {
		return err
	}
	for _, step := range []struct {
		after string
		do    func() error
	}{
		{"write-through chosen", func() error { _, err := g.Run(through); return err }},
		{"the driver bound anew", func() error {
			_, err := g.Run(`device=$(basename "$(readlink -f /sys/block/vda/device)"); cd /sys/bus/virtio/drivers/virtio_blk
				echo $device >unbind; echo $device >bind; await 120 'the disk' test -b /dev/vda`)
			return err
		}},
		{"a reboot", g.Reset},
		{"the daemon killed, QEMU connected again", func() (err error) {
			if err = d.End(unix.SIGKILL); err == nil {
				d, err = h.Serve(vm.ServeOptions{Name: "blk", File: h.Path("blk.raw"), Args: []string{args}, Trace: true})
			}
			return err
		}},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.after, err)
		}
		if err := stable(h, g, d, step.after); err != nil {
			return err
		}
	}
	return errors.Join(plugMemory(h, g, d), g.Sane(), g.PowerOff(), d.End(unix.SIGTERM))
}

// saved: the guest's state goes into a file, and another QEMU goes on with it.
func saved(h *vm.Host) error {
	d, err := ordinary(h, "saved", args)
	if err != nil {
		return err
	}
	options := vm.Options{Name: "saved", MemoryMiB: 256, Disks: []vm.Disk{{ID: "blk", Socket: d.Socket}}}
	g, err := h.Boot(options)
	if err != nil {
		return err
	}
	if _, err := g.Run(through); err != nil {
		return err
	}
	if err := g.Save(h.Path("state")); err != nil {
		return err
	}
	options.Name, options.Incoming = "restored", true
	if g, err = h.Start(options); err != nil {
		return err
	}
	if err := g.Load(h.Path("state")); err != nil {
		return err
	}
	if err := stable(h, g, d, "saved and restored"); err != nil {
		return err
	}
	return errors.Join(g.Sane(), g.PowerOff(), d.End(unix.SIGTERM))
}
