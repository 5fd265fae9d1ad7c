package guestmem_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/zvhost/zvhost/internal/iovec"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

func heap(t testing.TB, ds ...guestmem.RegionDesc) *guestmem.Memory {
	t.Helper()
	var regions []*guestmem.Region
	for _, d := range ds {
		regions = append(regions, guestmem.Heap(d))
	}
	m, err := guestmem.New(regions)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		ds   []guestmem.RegionDesc
		want string
	}{
		{"one byte of overlap", []guestmem.RegionDesc{{GuestAddr: page, Size: page + 1}, {GuestAddr: 2 * page, Size: page}}, "overlap"},
		{"the same twice", []guestmem.RegionDesc{{GuestAddr: page, Size: page}, {GuestAddr: page, Size: page}}, "overlap"},
		{"one inside another", []guestmem.RegionDesc{{GuestAddr: 2 * page, Size: 16}, {GuestAddr: page, Size: 4 * page}}, "overlap"},
		{"wraps around", []guestmem.RegionDesc{{GuestAddr: ^uint64(0) - 15, Size: 17}}, "wraps"},
		{"empty", []guestmem.RegionDesc{{GuestAddr: page}}, "empty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var regions []*guestmem.Region
			for _, d := range c.ds {
				regions = append(regions, guestmem.Heap(d))
			}
			_, err := guestmem.New(regions)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v does not say %q", err, c.want)
			}
		})
	}
}

// The guest may see one piece of the front-end's memory in two places.
func TestNewAcceptsSharedUserAddresses(t *testing.T) {
	m := heap(t, guestmem.RegionDesc{GuestAddr: 0, Size: page, UserAddr: 0x1000},
		guestmem.RegionDesc{GuestAddr: 0x10000, Size: 4 * page, UserAddr: 0x1000})
	for _, n := range []uint64{page, 4 * page} {
		if b, err := m.UserBytes(0x1000, n); err != nil || uint64(len(b)) != n {
			t.Fatalf("%d bytes: %d, %v", n, len(b), err)
		}
	}
}

func TestEmptyMemory(t *testing.T) {
	m := heap(t)
	if _, err := m.Bytes(0, 1); err == nil {
		t.Error("Bytes found something")
	}
	if _, err := m.UserBytes(0, 1); err == nil {
		t.Error("UserBytes found something")
	}
	if _, err := m.AppendIovecs(nil, 0, 1); err == nil {
		t.Error("AppendIovecs found something")
	}
}

func TestTranslate(t *testing.T) {
	// Two neighbours, a gap, and a region at the top of the address space.
	top := ^uint64(0) - page
	m := heap(t,
		guestmem.RegionDesc{GuestAddr: top, Size: page, UserAddr: top - page},
		guestmem.RegionDesc{GuestAddr: 2 * page, Size: page, UserAddr: 0x7000_0000},
		guestmem.RegionDesc{GuestAddr: page, Size: page, UserAddr: 0x6000_0000},
	)
	for _, c := range []struct {
		name    string
		addr, n uint64
		bytes   bool // Bytes finds it
		pieces  int  // of AppendIovecs; 0: refused
	}{
		{"a whole region", page, page, true, 1},
		{"its last byte", 2*page - 1, 1, true, 1},
		{"the byte before it", page - 1, 1, false, 0},
		{"into it", page - 1, 2, false, 0},
		{"across the border", 2*page - 1, 2, false, 2},
		{"both", page, 2 * page, false, 2},
		{"both and the gap", page, 2*page + 1, false, 0},
		{"the gap", 3 * page, 1, false, 0},
		{"the top", top, page, true, 1},
		{"past the top", top, page + 1, false, 0},
		{"wrapping around", top + 1, ^uint64(0), false, 0},
		{"all there is", 0, ^uint64(0), false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := m.Bytes(c.addr, c.n)
			if (err == nil) != c.bytes || (err == nil && uint64(len(b)) != c.n) {
				t.Errorf("Bytes: %d bytes, %v", len(b), err)
			}
			was := []unix.Iovec{{Len: 42}}
			iov, err := m.AppendIovecs(was, c.addr, c.n)
			if (err == nil) != (c.pieces > 0) || len(iov) != 1+c.pieces || iov[0].Len != 42 {
				t.Errorf("AppendIovecs: %d vectors, %v", len(iov), err)
			}
			var sum uint64
			for _, v := range iov[1:] {
				sum += v.Len
			}
			if err == nil && sum != c.n {
				t.Errorf("vectors of %d bytes", sum)
			}
		})
	}
	if _, err := m.Bytes(page, 0); err == nil {
		t.Error("Bytes of nothing")
	}
	if _, err := m.UserBytes(0x6000_0000, 0); err == nil {
		t.Error("UserBytes of nothing")
	}
	if iov, err := m.AppendIovecs(nil, 3*page, 0); err != nil || len(iov) != 0 {
		t.Errorf("vectors of nothing: %d, %v", len(iov), err)
	}
	g, _ := m.Bytes(page+8, 8)
	u, err := m.UserBytes(0x6000_0008, 8)
	if err != nil || &g[0] != &u[0] {
		t.Error("a guest and a user address of the same byte differ")
	}
	if _, err := m.UserBytes(0x6000_0000+page-1, 2); err == nil {
		t.Error("UserBytes across a region's end")
	}
}

func TestReadAtAcrossRegions(t *testing.T) {
	var ds []guestmem.RegionDesc
	for i := range uint64(8) {
		ds = append(ds, guestmem.RegionDesc{GuestAddr: i * 16, Size: 16})
	}
	m := heap(t, ds...)
	for i := range uint64(8) {
		b, _ := m.Bytes(i*16, 16)
		for j := range b {
			b[j] = byte(i*16) + byte(j)
		}
	}
	got := make([]byte, 100)
	if err := m.ReadAt(got, 3); err != nil {
		t.Fatal(err)
	}
	for i, c := range got {
		if c != byte(i+3) {
			t.Fatalf("byte %d is %d", i, c)
		}
	}
	if err := m.ReadAt(got, 29); err == nil {
		t.Fatal("read past the end")
	}
}

// Against a map of single bytes, over random sets of regions.
func TestTranslateAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var regions []*guestmem.Region
		model := map[uint64]*byte{}
		at := uint64(0)
		for range rapid.IntRange(0, 40).Draw(t, "regions") {
			at += rapid.SampledFrom([]uint64{0, 0, 1, 7}).Draw(t, "gap")
			n := rapid.Uint64Range(1, 9).Draw(t, "size")
			r := guestmem.Heap(guestmem.RegionDesc{GuestAddr: at, Size: n})
			one, err := guestmem.New([]*guestmem.Region{r})
			if err != nil {
				t.Fatal(err)
			}
			b, err := one.Bytes(at, n)
			if err != nil {
				t.Fatal(err)
			}
			for i := range n {
				model[at+i] = &b[i]
			}
			at += n
			regions = append(regions, r)
		}
		m, err := guestmem.New(rapid.Permutation(regions).Draw(t, "order"))
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			addr := rapid.Uint64Range(0, at+3).Draw(t, "addr")
			n := rapid.Uint64Range(1, 40).Draw(t, "n")
			var want []*byte
			for i := range n {
				if p := model[addr+i]; p != nil {
					want = append(want, p)
				}
			}
			iov, err := m.AppendIovecs(nil, addr, n)
			if whole := uint64(len(want)) == n; (err == nil) != whole {
				t.Fatalf("%d bytes at %d: %v, but all there: %v", n, addr, err, whole)
			}
			if err != nil {
				continue
			}
			i := 0
			for _, v := range iov {
				for j := range iovec.Bytes(v) {
					if (*byte)(unsafe.Add(unsafe.Pointer(v.Base), j)) != want[i] {
						t.Fatalf("%d bytes at %d: byte %d is elsewhere", n, addr, i)
					}
					i++
				}
			}
			b, err := m.Bytes(addr, n)
			if (err == nil) != (len(iov) == 1) || (err == nil && &b[0] != want[0]) {
				t.Fatalf("%d bytes at %d in %d pieces: Bytes says %v", n, addr, len(iov), err)
			}
		}
	})
}

func TestTranslateAllocatesNothing(t *testing.T) {
	m := heap(t, guestmem.RegionDesc{GuestAddr: 0, Size: page}, guestmem.RegionDesc{GuestAddr: page, Size: page})
	iov := make([]unix.Iovec, 0, 4)
	var buf [16]byte
	if n := testing.AllocsPerRun(100, func() {
		iov, _ = m.AppendIovecs(iov[:0], page-8, 16)
		_, _ = m.Bytes(page, 8)
		_ = m.ReadAt(buf[:], page-8)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAppendIovecs(b *testing.B) {
	for _, n := range []int{1, 3, 509} {
		var ds []guestmem.RegionDesc
		for i := range uint64(n) {
			ds = append(ds, guestmem.RegionDesc{GuestAddr: i * 64, Size: 64})
		}
		m := heap(b, ds...)
		b.Run(map[int]string{1: "1region", 3: "3regions", 509: "509regions"}[n], func(b *testing.B) {
			iov := make([]unix.Iovec, 0, 4)
			addr := uint64(0)
			for b.Loop() {
				iov, _ = m.AppendIovecs(iov[:0], addr, 16)
				if addr += 64 * 7; addr >= uint64(n)*64 {
					addr %= uint64(n) * 64
				}
			}
		})
	}
}

// Memory that is looked for when it is missing: by one goroutine at a time, once for each region,
// also in the middle of a buffer. What is not there, or does not fit, is an error as before.
func TestOnMissing(t *testing.T) {
	m := heap(t, guestmem.RegionDesc{GuestAddr: 0, Size: page})
	var asked []uint64
	m.OnMissing(func(addr uint64) (*guestmem.Region, error) {
		asked = append(asked, addr)
		switch {
		case addr < 3*page:
			return guestmem.Heap(guestmem.RegionDesc{GuestAddr: page, Size: 2 * page, UserAddr: page}), nil
		case addr == 8*page:
			return guestmem.Heap(guestmem.RegionDesc{GuestAddr: 2 * page, Size: 8 * page}), nil // overlaps
		case addr == 9*page:
			return guestmem.Heap(guestmem.RegionDesc{GuestAddr: 20 * page, Size: page}), nil // elsewhere
		}
		return nil, unix.EINVAL
	})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			iov, err := m.AppendIovecs(nil, page/2, 2*page)
			if err != nil || len(iov) != 2 || iov[0].Len != page/2 || iov[1].Len != 3*page/2 {
				t.Errorf("%v, %v", iov, err)
			}
		})
	}
	wg.Wait()
	if _, err := m.UserBytes(2*page, page); err != nil {
		t.Error(err)
	}
	for _, at := range []uint64{2 * page, 8 * page, 9 * page} {
		var missing *guestmem.MissingError
		if _, err := m.AppendIovecs(nil, at, 2*page); !errors.As(err, &missing) {
			t.Errorf("at %#x: %v", at, err)
		}
	}
	if want := []uint64{page, 3 * page, 8 * page, 9 * page}; !slices.Equal(asked, want) {
		t.Errorf("asked for %#x, and not %#x", asked, want)
	}
}
