package loopdev

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long whoever has used a device or a file system may take to be gone.
const patience = time.Minute

// Options are what a loop device is to be like.
type Options struct {
	BlockSize uint32 // logical, in bytes: 512 to 4096; 0 for 512
	ReadOnly  bool
	Offset    uint64 // where in the file it begins, in bytes
	Bytes     uint64 // how much of the file it shows at most; 0: all behind Offset
}

// A Device is a loop device over a file.
type Device struct {
	Path string // of its node
	Dev  uint64 // its device number

	t testing.TB
	f *os.File // keeps it: it goes with its last user
}

// File makes a sparse file of n bytes.
func File(t testing.TB, n int64) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "backing")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err == nil {
		err = errors.Join(f.Truncate(n), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Attach makes a loop device over the file at path. It is detached at the end of the
// test, or by the kernel when nobody has it open any more (LO_FLAGS_AUTOCLEAR).
func Attach(t testing.TB, path string, o Options) *Device {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes a loop device: run it as root")
	}
	mode := os.O_RDWR
	config := unix.LoopConfig{Size: o.BlockSize}
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	config.Info.Offset, config.Info.Sizelimit = o.Offset, o.Bytes
	if o.ReadOnly {
		mode = os.O_RDONLY
		config.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	backing, err := os.OpenFile(path, mode, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer backing.Close()
	config.Fd = uint32(backing.Fd())
	copy(config.Info.File_name[:len(config.Info.File_name)-1], path)
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ctl.Close()
	for deadline := time.Now().Add(patience); ; {
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Fatalf("look for a free loop device: %v", err)
		}
		d := &Device{Path: fmt.Sprintf("/dev/loop%d", n), t: t}
		if d.f, err = os.OpenFile(d.Path, os.O_RDWR, 0); err != nil {
			t.Fatal(err)
		}
		if err = unix.IoctlLoopConfigure(int(d.f.Fd()), &config); err == nil {
			t.Cleanup(d.detach)
			return d.find()
		}
		_ = d.f.Close()
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) { // busy: somebody else was faster
			t.Fatalf("%s over %s: %v", d.Path, path, err)
		}
	}
}

func (d *Device) find() *Device {
	d.t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(d.f.Fd()), &st); err != nil {
		d.t.Fatal(err)
	}
	d.Dev = st.Rdev
	return d
}

// detach lets the device go, and waits until nobody else has it.
func (d *Device) detach() {
	if err := d.f.Close(); err != nil {
		d.t.Error(err)
	}
	backing := filepath.Join("/sys/block", filepath.Base(d.Path), "loop/autoclear")
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(backing); err != nil {
			return // or it is another one's by now, which is waited for in vain at worst
		}
		if time.Now().After(deadline) {
			d.t.Errorf("%s is still in use", d.Path)
			return
		}
	}
}

// For is the device in a subtest, which takes down what it makes.
func (d *Device) For(t testing.TB) *Device {
	sub := *d
	sub.t = t
	return &sub
}

// Resized has the device follow the size of its file (LOOP_SET_CAPACITY).
func (d *Device) Resized() {
	d.t.Helper()
	if err := unix.IoctlSetInt(int(d.f.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		d.t.Fatal(err)
	}
}

// Queue is what the kernel says of the device under queue/ in sysfs.
func (d *Device) Queue(name string) (n uint64) {
	d.t.Helper()
	text, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(d.Path), "queue", name))
	if err == nil {
		_, err = fmt.Sscan(string(text), &n)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return n
}

// Node makes another node of the device.
func (d *Device) Node() (path string) {
	d.t.Helper()
	path = filepath.Join(d.t.TempDir(), "node")
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(d.Dev)); err != nil {
		d.t.Fatal(err)
	}
	return path
}

// FileSystem makes an ext4 file system on the device.
func (d *Device) FileSystem() {
	d.t.Helper()
	if out, err := exec.Command("mkfs.ext4", "-q", d.Path).CombinedOutput(); err != nil {
		d.t.Fatalf("mkfs.ext4 %s: %v: %s", d.Path, err, out)
	}
}

// Mount mounts the ext4 file system on the device at a directory of its own, with flags
// of mount(2). It is thawed and taken down at the end of the test.
func (d *Device) Mount(flags uintptr) (dir string) {
	d.t.Helper()
	dir = d.t.TempDir()
	d.takeDownOnDeath(dir)
	if err := unix.Mount(d.Path, dir, "ext4", flags, ""); err != nil {
		d.t.Fatalf("mount %s: %v", d.Path, err)
	}
	d.t.Cleanup(func() {
		err := unix.Unmount(dir, 0)
		for deadline := time.Now().Add(patience); err == unix.EBUSY && time.Now().Before(deadline); {
			time.Sleep(5 * time.Millisecond)
			err = unix.Unmount(dir, 0)
		}
		if err != nil {
			d.t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// takeDownOnDeath has the file system at dir thawed and taken down if this process is
// killed: it would stay frozen for good.
func (d *Device) takeDownOnDeath(dir string) {
	d.t.Helper()
	cmd := exec.Command("sh", "-c", `read over || { fsfreeze --unfreeze "$1"; umount --lazy "$1"; }`, "sh", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // what kills a test may kill its process group
	over, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		if _, err := over.Write([]byte("over\n")); err != nil {
			d.t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			d.t.Error(err)
		}
	})
}
