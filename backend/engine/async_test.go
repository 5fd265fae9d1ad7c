package engine

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A block device is not in memory because its node is: /dev is a tmpfs.
func TestInMemory(t *testing.T) {
	for _, c := range []struct {
		mode uint32
		fs   int64
		want bool
	}{
		{unix.S_IFREG, unix.TMPFS_MAGIC, true},
		{unix.S_IFREG, unix.RAMFS_MAGIC, true},
		{unix.S_IFREG, unix.EXT4_SUPER_MAGIC, false},
		{unix.S_IFBLK, unix.TMPFS_MAGIC, false},
		{unix.S_IFBLK, unix.EXT4_SUPER_MAGIC, false},
	} {
		if got := inMemory(c.mode|0o600, c.fs); got != c.want {
			t.Errorf("a file of mode %#o on a file system of type %#x: %v", c.mode, c.fs, got)
		}
	}
}
