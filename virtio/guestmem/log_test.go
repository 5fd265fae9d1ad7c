package guestmem_test

import (
	"bytes"
	"math"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// vhost-user, "Migration": page = addr / VHOST_LOG_PAGE, log[page / 8] |= 1 <<
// page % 8, in the file that the front-end has given, from the offset on.
func TestLogGolden(t *testing.T) {
	fd, err := unix.MemfdCreate("log", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Ftruncate(fd, 8192); err != nil {
		t.Fatal(err)
	}
	const offset, size = 4096 + 3, 6 // marks of 48 pages, at an odd address
	l, err := guestmem.MapLog(fd, size, offset)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range [][2]uint64{
		{0, 1},                      // page 0
		{2*4096 - 1, 2},             // 1 and 2
		{9*4096 + 5, 0},             // nothing
		{15 * 4096, 4096},           // 15
		{20 * 4096, 4096*8 + 1},     // 20 to 28
		{47*4096 + 4095, 1 << 40},   // 47, and what the log does not cover
		{48 * 4096, 1},              // not covered
		{math.MaxUint64 - 4095, 10}, // nor this
	} {
		l.Mark(m[0], m[1])
	}
	got := make([]byte, 8192)
	if _, err := unix.Pread(fd, got, 0); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 8192)
	copy(want[offset:], []byte{0x07, 0x80, 0xf0, 0x1f, 0, 0x80})
	if !bytes.Equal(got, want) {
		t.Errorf("%x", got[offset-4:offset+12])
	}
	for _, c := range []struct {
		addr, n uint64
		want    bool
	}{{0, 48 * 4096, true}, {0, 48*4096 + 1, false}, {47 * 4096, 4096, true}, {48 * 4096, 1, false}, {48 * 4096, 0, true}, {math.MaxUint64, 2, false}} {
		if l.Covers(c.addr, c.n) != c.want {
			t.Errorf("Covers(%#x, %#x) is %v", c.addr, c.n, !c.want)
		}
	}
	if !l.Dirty(47) || l.Dirty(47) || l.Dirty(48) || l.Dirty(3) {
		t.Error("marks are not taken")
	}
	if err := l.Unmap(); err != nil {
		t.Error(err)
	}
	for _, c := range [][2]uint64{{0, 0}, {8192, 4096}, {math.MaxUint64, 2}, {4096, math.MaxUint64}} {
		if _, err := guestmem.MapLog(fd, c[0], c[1]); err == nil {
			t.Errorf("a log of %#x bytes at %#x of a file of 8192", c[0], c[1])
		}
	}
}

// Marks of several goroutines in the same words do not undo each other.
func TestLogTogether(t *testing.T) {
	l := guestmem.HeapLog(64)
	var wg sync.WaitGroup
	for i := range uint64(8) {
		wg.Go(func() {
			for page := i; page < 512; page += 8 {
				l.Mark(page*4096, 1)
			}
		})
	}
	wg.Wait()
	for page := range uint64(512) {
		if !l.Dirty(page) {
			t.Errorf("page %d is not marked", page)
		}
	}
}

// Memory leads back to the guest's address, in the region that it came from.
func TestGuestAddr(t *testing.T) {
	regions := []*guestmem.Region{
		guestmem.Heap(guestmem.RegionDesc{GuestAddr: 0x10000, Size: 0x2000}),
		guestmem.Heap(guestmem.RegionDesc{GuestAddr: 0x12000, Size: 0x1000}),
	}
	m, err := guestmem.New(regions)
	if err != nil {
		t.Fatal(err)
	}
	iov, err := m.AppendIovecs(nil, 0x11ff0, 0x20)
	if err != nil || len(iov) != 2 {
		t.Fatal(iov, err)
	}
	for i, want := range []uint64{0x11ff0, 0x12000} {
		if got, ok := m.GuestAddr(iov[i]); !ok || got != want {
			t.Errorf("%#x, %v, not %#x", got, ok, want)
		}
	}
	iov[1].Len = 0x1001
	if _, ok := m.GuestAddr(iov[1]); ok {
		t.Error("more than the region has")
	}
	var elsewhere byte
	if _, ok := m.GuestAddr(unix.Iovec{Base: &elsewhere, Len: 1}); ok {
		t.Error("memory of nobody's")
	}
}
