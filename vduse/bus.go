package vduse

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The vDPA bus: a device joins it and leaves it by netlink (include/uapi/linux/vdpa.h), and is
// found in sysfs meanwhile.

// sysfs is where the kernel shows its devices.
const sysfs = "/sys"

// Attach has the device join the bus, where a driver finds it: virtio_vdpa makes a virtio device
// of it. The driver's messages must be answered meanwhile, so it is for another goroutine than
// the session's. It returns nil where the device is on the bus already.
func Attach(name string) error {
	switch err := netlink.VDPANewDev(name, "", "vduse", netlink.VDPANewDevParams{}); {
	case err == nil, errors.Is(err, unix.EEXIST):
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("the device %s cannot join the vDPA bus: %w: it takes root (CAP_NET_ADMIN) in the host's network namespace", name, err)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("the device %s cannot join the vDPA bus, which this kernel does not have: load the modules vdpa and virtio_vdpa (CONFIG_VDPA, CONFIG_VIRTIO_VDPA)", name)
	default:
		return fmt.Errorf("the device %s cannot join the vDPA bus: %w", name, err)
	}
}

// Detach has the device leave the bus: its driver lets it go, and with it the block device. It
// returns nil where the device is not on the bus.
func Detach(name string) error {
	err := netlink.VDPADelDev(name)
	if err == nil || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("the device %s does not leave the vDPA bus: %w", name, err)
}

// Attached says whether the device is on the bus. Where that is not known it is true.
func Attached(name string) bool {
	_, err := os.Stat(filepath.Join(sysfs, "bus/vdpa/devices", name))
	return !errors.Is(err, fs.ErrNotExist)
}

// Driver is the name of the driver that has the device, empty if none has.
func Driver(name string) string {
	link, err := os.Readlink(filepath.Join(sysfs, "bus/vdpa/devices", name, "driver"))
	if err != nil {
		return ""
	}
	return filepath.Base(link)
}

// BlockDevice is the path of the disk that the host's kernel has made of the device; empty if
// there is none yet.
func BlockDevice(name string) string {
	found, _ := filepath.Glob(filepath.Join(sysfs, "bus/vdpa/devices", name, "virtio*/block/*")) // the pattern is well-formed
	if len(found) == 0 {
		return ""
	}
	return filepath.Join("/dev", filepath.Base(found[0]))
}

// NameOf is the name of the device that a disk of the host's is of, such as /dev/vdb; empty if it
// is of none.
func NameOf(blockDevice string) string {
	path, err := filepath.EvalSymlinks(blockDevice)
	if err != nil {
		return ""
	}
	// .../vduse/NAME/NAME/virtio1/block/vdb
	path, err = filepath.EvalSymlinks(filepath.Join(sysfs, "class/block", filepath.Base(path)))
	if err != nil {
		return ""
	}
	for range 3 {
		path = filepath.Dir(path)
	}
	name := filepath.Base(path)
	if _, err := os.Stat(filepath.Join(sysfs, "class/vduse", name)); err != nil {
		return ""
	}
	return name
}
