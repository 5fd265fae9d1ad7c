package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/integration/rig"
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
	undo        rig.Undo
}

func (h *host) path(name string) string   { return filepath.Join(h.dir, name) }
func (h *host) onDisk(name string) string { return filepath.Join(h.dir, "mnt", name) }

// prepare makes the file system.
func (h *host) prepare() error {
	if err := h.undo.Mount("tmpfs", h.path("under"), "tmpfs", fmt.Sprintf("size=%d", tmpfsBytes)); err != nil {
		return err
	}
	disk := h.path("under/disk")
	if err := rig.Sparse(disk, diskBytes); err != nil {
		return err
	}
	loop, err := h.undo.Loop(disk)
	if err != nil {
		return err
	}
	if _, err := rig.Run("mkfs.ext4", "-q", "-b", "4096", "-N", "256", "-J", "size=4",
		"-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", loop); err != nil {
		return err
	}
	return h.undo.Mount(loop, h.path("mnt"), "ext4", "errors=remount-ro")
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
