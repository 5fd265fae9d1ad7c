package vduse

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CheckName refuses a name that a device cannot have: it is a file name in /dev/vduse, and a
// device's in sysfs and on the vDPA bus.
func CheckName(name string) error {
	switch {
	case name == "" || name == "." || name == ".." || name == "control":
		return fmt.Errorf("%q cannot be the name of a device: give one such as vm1-data", name)
	case len(name) > MaxName:
		return fmt.Errorf("the name of a device has at most %d bytes, and this one has %d", MaxName, len(name))
	}
	for _, c := range []byte(name) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("._-", c) >= 0) {
			return fmt.Errorf("%q cannot be the name of a device: use letters, digits, dots, hyphens and underscores", name)
		}
	}
	return nil
}

// MaxName is the longest name, in bytes. The kernel would take 255, but it appends to it in
// other places.
const MaxName = 64

// ErrNoVDUSE is a host without VDUSE.
var ErrNoVDUSE = errors.New("this host has no VDUSE (/dev/vduse/control): load the modules vduse and virtio_vdpa (modprobe vduse virtio_vdpa; Linux 5.15 or later with CONFIG_VDPA_USER and CONFIG_VIRTIO_VDPA, 6.6 or later for zoned disks; in Debian they are in linux-image, in Ubuntu in linux-modules-extra, in Fedora in kernel-modules-extra)")

// Create makes a device with its rings, and opens it. It fails with fs.ErrExist if there is one
// of that name, and with ErrNoVDUSE on a host without.
func Create(c *Config) (*Node, error) {
	ctl, err := openControl()
	if err != nil {
		return nil, err
	}
	defer func() { _ = ctl.Close() }()
	var version [8]byte // 0
	if _, err := ioctl(int(ctl.Fd()), ioSetVersion, version[:]); err != nil {
		return nil, fmt.Errorf("VDUSE of this kernel does not know API version 0: %w", err)
	}
	if _, err := ioctl(int(ctl.Fd()), ioCreate, c.append(nil)); err != nil {
		if errors.Is(err, unix.EINVAL) {
			return nil, fmt.Errorf("the kernel does not accept the device %s: %w", c.Name, err)
		}
		return nil, fmt.Errorf("making the device %s: %w", c.Name, err)
	}
	n, err := Open(c.Name)
	for i := 0; i < c.Queues && err == nil; i++ {
		if err = n.SetupQueue(i, c.QueueSize); err != nil {
			err = errors.Join(fmt.Errorf("setting up queue %d: %w", i, err), n.Close())
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the device %s: %w", c.Name, err), Destroy(c.Name))
	}
	return n, nil
}

// destroyPatience is how long a device may be open that is to be removed: others look at it.
const destroyPatience = 5 * time.Second

// Destroy removes a device that is not on the vDPA bus, if there is one, and that nobody has
// open.
func Destroy(name string) error {
	ctl, err := openControl()
	if err != nil {
		return err
	}
	defer func() { _ = ctl.Close() }()
	b := make([]byte, nameBytes)
	copy(b[:nameBytes-1], name)
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		_, err := ioctl(int(ctl.Fd()), ioDestroy, b)
		switch {
		case err == nil, errors.Is(err, unix.EINVAL): // EINVAL: there is none
			return nil
		case !errors.Is(err, unix.EBUSY), time.Since(begun) > destroyPatience:
			return fmt.Errorf("removing the device %s: %w", name, err)
		}
	}
}

func openControl() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(Dir, "control"), os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return nil, ErrNoVDUSE
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: making a device of the host takes root", err)
	}
	return f, err
}
