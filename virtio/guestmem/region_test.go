package guestmem_test

import (
	"math"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/iovec"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

const page = 4096

// memfd makes a file of n bytes that the test closes.
func memfd(t *testing.T, n int64) int {
	t.Helper()
	fd, err := unix.MemfdCreate("guestmem-test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Ftruncate(fd, n); err != nil {
		t.Fatal(err)
	}
	return fd
}

// mapped maps a region that the test unmaps.
func mapped(t *testing.T, fd int, d guestmem.RegionDesc) *guestmem.Region {
	t.Helper()
	r, err := guestmem.Map(fd, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Unmap(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestMapRefuses(t *testing.T) {
	fd := memfd(t, 4*page)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	for _, c := range []struct {
		name string
		fd   int
		d    guestmem.RegionDesc
		want string
	}{
		{"empty", fd, guestmem.RegionDesc{GuestAddr: page}, "empty"},
		{"one byte too many", fd, guestmem.RegionDesc{Size: 4*page + 1}, "has only 0x4000"},
		{"offset past the end", fd, guestmem.RegionDesc{Size: page, MmapOffset: 4 * page}, "has only 0x4000"},
		{"offset and size overflow", fd, guestmem.RegionDesc{Size: page, MmapOffset: math.MaxUint64 - 1}, "outside any file"},
		{"offset and size past int64", fd, guestmem.RegionDesc{Size: page, MmapOffset: math.MaxInt64 - 1}, "outside any file"},
		{"guest addresses wrap", fd, guestmem.RegionDesc{GuestAddr: math.MaxUint64 - page + 1, Size: page}, "wraps around the guest's"},
		{"user addresses wrap", fd, guestmem.RegionDesc{UserAddr: math.MaxUint64 - 10, Size: page}, "wraps around the front-end's"},
		{"not a file", pipe[0], guestmem.RegionDesc{Size: page}, "has only 0x0"},
		{"closed", -1, guestmem.RegionDesc{Size: page}, "fstat"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := guestmem.Map(c.fd, c.d)
			if err == nil {
				_ = r.Unmap()
				t.Fatal("mapped")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %q does not say %q", err, c.want)
			}
		})
	}
}

func TestMapReadOnlyFile(t *testing.T) {
	fd := memfd(t, page)
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); err != nil {
		t.Fatal(err)
	}
	if r, err := guestmem.Map(fd, guestmem.RegionDesc{Size: page}); err == nil {
		_ = r.Unmap()
		t.Fatal("mapped a file that must not be written")
	}
}

// An offset in the file need not be a multiple of the page size, and the file
// may be closed at once.
func TestMapSharesTheFile(t *testing.T) {
	fd := memfd(t, 4*page)
	d := guestmem.RegionDesc{GuestAddr: 0x1000_0000, Size: page + 100, UserAddr: 0x7f00_0000_0000, MmapOffset: page + 36}
	r := mapped(t, fd, d)
	if r.Desc() != d {
		t.Fatalf("Desc is %+v", r.Desc())
	}
	m, err := guestmem.New([]*guestmem.Region{r})
	if err != nil {
		t.Fatal(err)
	}
	b, err := m.Bytes(d.GuestAddr, d.Size)
	if err != nil {
		t.Fatal(err)
	}
	b[0], b[len(b)-1] = 1, 2
	got := make([]byte, d.Size)
	if _, err := unix.Pread(fd, got, int64(d.MmapOffset)); err != nil {
		t.Fatal(err)
	}
	if got[0] != 1 || got[len(got)-1] != 2 {
		t.Fatal("what was written is not in the file")
	}
}

func TestUnmapTwice(t *testing.T) {
	r, err := guestmem.Map(memfd(t, page), guestmem.RegionDesc{Size: page})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Unmap(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := guestmem.New([]*guestmem.Region{r}); err == nil {
		t.Fatal("an unmapped region makes a memory")
	}
	if err := guestmem.Heap(guestmem.RegionDesc{Size: page}).Unmap(); err != nil {
		t.Fatal(err)
	}
}

// A front-end that shrinks its file makes Go code fault. The goroutine survives
// it, and system calls on the same memory fail.
func TestShrunkFileFaults(t *testing.T) {
	fd := memfd(t, 2*page)
	r := mapped(t, fd, guestmem.RegionDesc{GuestAddr: 0, Size: 2 * page})
	m, err := guestmem.New([]*guestmem.Region{r})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Ftruncate(fd, page); err != nil {
		t.Fatal(err)
	}
	var copied [8]byte
	if err := m.ReadAt(copied[:], page-8); err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a fault on memory that Guard was not told of is an error of the front-end's")
			}
		}()
		_ = guestmem.Guard(func() error { return m.ReadAt(copied[:], page) }, guestmem.HeapLog(1), (*guestmem.Memory)(nil))
	}()
	err = guestmem.Guard(func() error { return m.ReadAt(copied[:], page) }, m)
	if err == nil || !strings.Contains(err.Error(), "its memory is not there (fault at 0x") {
		t.Fatalf("reading memory that is gone: %v", err)
	}
	iov, err := m.AppendIovecs(nil, page, 8)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(fd, iovec.Bytes(iov[0])); err != unix.EFAULT {
		t.Fatalf("a system call on memory that is gone: %v", err)
	}
}
