package backend

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// A front-end that shrinks the memory it shared costs the requests that use it
// an error, and leaves the zone as if they had never been.
func TestGuestMemoryGoesAway(t *testing.T) {
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	const size = 64 << 10
	if err := unix.Ftruncate(fd, size); err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Munmap(mem); err != nil {
			t.Error(err)
		}
	}()
	path := imagetest.NewFast(t, disktest.Small)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(256, mem[:4096]), nil)
	if err := unix.Ftruncate(fd, 8192); err != nil {
		t.Fatal(err)
	}
	half := mem[4096 : 4096+8192] // its second half is gone
	for _, r := range []*disk.Request{
		disktest.NewRequest(disk.OpWrite, 264, half),
		disktest.NewRequest(disk.OpAppend, 256, half),
		disktest.NewRequest(disk.OpAppend, 384, mem[8192:16384]),
		disktest.NewRequest(disk.OpWrite, 0, half),
		disktest.NewRequest(disk.OpRead, 256, mem[8192:12288]),  // from the file
		disktest.NewRequest(disk.OpRead, 512, half),             // zeroes
		disktest.NewRequest(disk.OpRead, 256, mem[4096:16384]),  // both
		disktest.NewRequest(disk.OpRead, 1024, mem[8192:16384]), // zeroes into nothing
	} {
		err := disktest.WithFaultPanics(func() error { return c.Do(r) })
		c.WantError(err, disk.ErrIO)
		c.WantError(err, unix.EFAULT)
	}
	c.WantZone(2, zone.ImpOpen, 8)
	c.WantZone(3, zone.Empty, 0)
	c.WantError(c.Write(264, mem[:8192]), nil)
	c.WantZone(2, zone.ImpOpen, 24)
	imagetest.CloseDisk(t, d, path)
}
