package backend

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
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
	path := newFastImage(t, small)
	d := openDisk(t, path)
	c := newClient(t, d)
	c.want(c.write(256, mem[:4096]), nil)
	if err := unix.Ftruncate(fd, 8192); err != nil {
		t.Fatal(err)
	}
	half := mem[4096 : 4096+8192] // its second half is gone
	for _, r := range []*disk.Request{
		request(disk.OpWrite, 264, half),
		request(disk.OpAppend, 256, half),
		request(disk.OpAppend, 384, mem[8192:16384]),
		request(disk.OpWrite, 0, half),
		request(disk.OpRead, 256, mem[8192:12288]),  // from the file
		request(disk.OpRead, 512, half),             // zeroes
		request(disk.OpRead, 256, mem[4096:16384]),  // both
		request(disk.OpRead, 1024, mem[8192:16384]), // zeroes into nothing
	} {
		err := onWorker(func() error { return c.do(r) })
		c.want(err, disk.ErrIO)
		c.want(err, unix.EFAULT)
	}
	c.wantZone(2, zone.ImpOpen, 8)
	c.wantZone(3, zone.Empty, 0)
	c.want(c.write(264, mem[:8192]), nil)
	c.wantZone(2, zone.ImpOpen, 24)
	closeDisk(t, d, path)
}
