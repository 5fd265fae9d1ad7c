package rig

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The files of a process that was killed may be open a little longer than the process is
// there; taking its file system down waits for them.
func TestMountIsTakenDownOnceItsFilesAreClosed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mnt")
	var u Undo
	if err := u.Mount("tmpfs", dir, "tmpfs", ""); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(dir, 0); err != unix.EBUSY {
		t.Errorf("unmount with an open file: %v, want %v", err, unix.EBUSY)
	}
	time.AfterFunc(20*time.Millisecond, func() { f.Close() })
	if err := u.Run(); err != nil {
		t.Error(err)
	}
}
