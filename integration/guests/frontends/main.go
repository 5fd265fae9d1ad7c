package main

import (
	"os"

	"github.com/zvhost/zvhost/integration/vm"
)

func main() {
	vm.Main([]vm.Test{
		{Name: "QEMU's generic device", Run: generic},
		{Name: "vhost-user-blk-pci", Run: block},
		{Name: "saved and restored", Run: saved},
		{Name: "memory that is not shared", Run: unshared},
	})
}

const diskBytes = 64 << 20

// ordinary makes an empty ordinary disk, and serves it.
func ordinary(h *vm.Host, name string, args ...string) (*vm.Daemon, error) {
	file := h.Path(name + ".raw")
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(diskBytes); err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	return h.Serve(vm.ServeOptions{Name: name, File: file, Args: args, Trace: true})
}
