package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// What the machine is made of. The file system has one block group, so that all that
// it has to write of its own is where it has been written before; and the tmpfs has
// room for what is written, but not for all of the disk.
const (
	tmpfsBytes = 64 << 20
	diskBytes  = 120 << 20
)

// A host is the machine that zvhost runs on.
type host struct {
	zvhost, dir string
	undo        undo
}

func (h *host) path(name string) string   { return filepath.Join(h.dir, name) }
func (h *host) onDisk(name string) string { return filepath.Join(h.dir, "mnt", name) }

// command runs a program of the host, and returns what it printed.
func command(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// undo collects what has to be taken down again, the last first.
type undo []func() error

func (u *undo) add(f func() error) { *u = append(*u, f) }

// run takes everything down, and returns the first thing that failed.
func (u *undo) run() (err error) {
	for n := len(*u) - 1; n >= 0; n-- {
		if e := (*u)[n](); err == nil {
			err = e
		}
	}
	*u = nil
	return err
}

func (h *host) mount(what, at, fs, options string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(what, at, fs, 0, options); err != nil {
		return fmt.Errorf("mount %s as %s: %w", what, fs, err)
	}
	h.undo.add(func() error {
		if err := unix.Unmount(at, 0); err != nil {
			return fmt.Errorf("unmount %s: %w", at, err)
		}
		return nil
	})
	return nil
}

// prepare makes the file system.
func (h *host) prepare() error {
	if err := h.mount("tmpfs", h.path("under"), "tmpfs", fmt.Sprintf("size=%d", tmpfsBytes)); err != nil {
		return err
	}
	disk := h.path("under/disk")
	f, err := os.Create(disk)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(diskBytes), f.Close()); err != nil {
		return err
	}
	loop, err := command("losetup", "--find", "--show", disk)
	if err != nil {
		return err
	}
	h.undo.add(func() error { _, err := command("losetup", "--detach", loop); return err })
	if _, err := command("mkfs.ext4", "-q", "-b", "4096", "-N", "256", "-J", "size=4",
		"-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", loop); err != nil {
		return err
	}
	return h.mount(loop, h.path("mnt"), "ext4", "errors=remount-ro")
}

// fill takes the room that the disk would need for what is new.
func (h *host) fill() error {
	unix.Sync() // what has been written by now is there
	f, err := os.Create(h.path("under/filler"))
	if err != nil {
		return err
	}
	for b := make([]byte, 64<<10); err == nil; {
		_, err = f.Write(b)
	}
	if errors.Is(err, unix.ENOSPC) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// free gives the room back.
func (h *host) free() error { return os.Remove(h.path("under/filler")) }

// sound says whether the file system is as good as before: only data was lost.
func (h *host) sound() error {
	var st unix.Statfs_t
	if err := unix.Statfs(h.path("mnt"), &st); err != nil {
		return err
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return errors.New("ext4 has lost more than data, and is read-only: this has shown nothing")
	}
	return nil
}

// A witness is told what the kernel could not write back of a file, as everybody is
// who has it open.
type witness struct{ f *os.File }

func newWitness(path string) (witness, error) {
	f, err := os.Open(path)
	return witness{f}, err
}

// end drops the page cache of a file that nobody else has open any more. The kernel
// must have lost data of it, or none at all.
func (w witness) end(lost bool) error {
	unix.Sync()
	err := unix.Fdatasync(int(w.f.Fd()))
	switch {
	case lost && err == nil:
		err = errors.New("the kernel has lost nothing: this has shown nothing")
	case lost && (err == unix.EIO || err == unix.ENOSPC):
		err = nil
	case err != nil:
		err = fmt.Errorf("sync %s: %w", w.f.Name(), err)
	}
	return errors.Join(err, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0))
}

func (w witness) close() error { return w.f.Close() }
