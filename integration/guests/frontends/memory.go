package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/zvhost/zvhost/integration/vm"
)

// missing is what the log has when memory is not in the table, with the remedy.
const missing = "share=on"

// writes are of a MiB each, from a buffer of that size; from is where nothing has been
// written, in MiB.
const writes, from = 16, 32

// writeMiB writes to the disk from a MiB on, and returns how many writes end with an I/O
// error.
func writeMiB(g *vm.Guest, at int) (failed int, err error) {
	out, err := g.Run(fmt.Sprintf(`head -c 1M /dev/zero | tr '\0' x >/tmp/x
		failed=0
		for i in $(seq %d %d); do
			if ! dd if=/tmp/x of=/dev/vda bs=1M count=1 seek=$i oflag=direct conv=notrunc,fsync status=none 2>/tmp/error; then
				grep -q 'Input/output error' /tmp/error || { cat /tmp/error; exit 1; }
				failed=$((failed + 1))
			fi
		done
		echo $failed`, at, at+writes-1))
	if err == nil {
		failed, err = strconv.Atoi(out)
	}
	return failed, err
}

// plugMemory: memory is plugged in that QEMU does not share. What the guest writes from
// it fails, and is not taken for written.
func plugMemory(h *vm.Host, g *vm.Guest, d *vm.Daemon) error {
	if failed, err := writeMiB(g, 0); err != nil || failed > 0 {
		return fmt.Errorf("%d writes fail before: %w", failed, err)
	}
	said := strings.Count(d.Log(), missing)
	if err := g.QMP.Do("object-add", map[string]any{"qom-type": "memory-backend-ram", "id": "more", "size": 1 << 30}, nil); err != nil {
		return err
	}
	if err := g.QMP.Do("device_add", map[string]any{"driver": "pc-dimm", "id": "dimm", "memdev": "more"}, nil); err != nil {
		return err
	}
	// What programs use comes from movable memory first.
	if _, err := g.Run("more() { (($(busybox awk '/^MemTotal/ { print $2 }' /proc/meminfo) > 1 << 20)); }; await 120 'the memory' more"); err != nil {
		return err
	}
	failed, err := writeMiB(g, from)
	if err != nil {
		return err
	}
	if failed != writes {
		return fmt.Errorf("of %d writes from memory that the daemon cannot reach %d fail", writes, failed)
	}
	data, err := os.ReadFile(h.Path("blk.raw"))
	if err != nil {
		return err
	}
	if n := bytes.Count(data[from<<20:], []byte("x")); n > 0 {
		return fmt.Errorf("%d bytes of writes that have failed are there", n)
	}
	if err := d.AwaitLog(1, missing); err != nil {
		return err
	}
	if n := strings.Count(d.Log(), missing) - said; n != 1 {
		return fmt.Errorf("%d lines in the log name the memory that is missing, not one", n)
	}
	h.OK("%d writes from memory that is not shared fail in the guest, and the log has one line about it", writes)
	return nil
}

// unshared: no memory of the guest is shared. The firmware waits for the disk, and so
// does the kernel.
func unshared(h *vm.Host) error {
	d, err := ordinary(h, "unshared")
	if err != nil {
		return err
	}
	g, err := h.Start(vm.Options{Name: "unshared", MemoryMiB: 256, Unshared: true, Disks: []vm.Disk{{ID: "blk", Socket: d.Socket}}})
	if err != nil {
		return err
	}
	if err := d.AwaitLog(1, missing); err != nil {
		return err
	}
	g.Kill()
	h.OK("share=on forgotten: the log names the remedy")
	return nil
}
