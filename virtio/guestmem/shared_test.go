package guestmem_test

import (
	"encoding/binary"
	"sync"
	"testing"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// 16 bit fields are little-endian, at any even address, and leave their
// neighbours alone.
func TestUint16(t *testing.T) {
	for _, off := range []int{0, 2, 4, 6} {
		b, err := heap(t, guestmem.RegionDesc{Size: 8}).Bytes(0, 8)
		if err != nil {
			t.Fatal(err)
		}
		for i := range b {
			b[i] = 0xee
		}
		f := guestmem.Uint16At(b, off)
		for _, v := range []uint16{0, 1, 0x1234, 0xffff, 0x8000} {
			f.Store(v)
			if f.Load() != v || binary.LittleEndian.Uint16(b[off:]) != v {
				t.Fatalf("at %d: stored %#x, loads %#x, memory %x", off, v, f.Load(), b)
			}
			for i, c := range b {
				if i != off && i != off+1 && c != 0xee {
					t.Fatalf("at %d: byte %d was changed", off, i)
				}
			}
		}
	}
}

func TestUint32(t *testing.T) {
	b, err := heap(t, guestmem.RegionDesc{Size: 8}).Bytes(0, 8)
	if err != nil {
		t.Fatal(err)
	}
	f := guestmem.Uint32At(b, 4)
	f.Store(0x11223344)
	if f.Load() != 0x11223344 || b[4] != 0x44 || b[7] != 0x11 || b[3] != 0 {
		t.Fatalf("memory %x", b)
	}
}

func TestMisalignedFieldsPanic(t *testing.T) {
	b, err := heap(t, guestmem.RegionDesc{Size: 8}).Bytes(0, 8)
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]func(){
		"odd":          func() { guestmem.Uint16At(b, 1) },
		"2 of 4":       func() { guestmem.Uint32At(b, 2) },
		"16 bits out":  func() { guestmem.Uint16At(b, 7) },
		"32 bits out":  func() { guestmem.Uint32At(b, 6) },
		"sub-slice":    func() { guestmem.Uint16At(b[1:], 0) },
		"behind a cut": func() { guestmem.Uint32At(b[:2], 0) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			at()
		}()
	}
	if !guestmem.Aligned(b, 4096) || guestmem.Aligned(b[2:], 4) || !guestmem.Aligned(b[2:], 2) {
		t.Error("Aligned is wrong about heap memory")
	}
}

// Two owners of the two halves of a word never lose each other's stores.
func TestNeighbours(t *testing.T) {
	b, err := heap(t, guestmem.RegionDesc{Size: 4}).Bytes(0, 4)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, off := range []int{0, 2} {
		wg.Go(func() {
			f := guestmem.Uint16At(b, off)
			for i := range uint16(20000) {
				f.Store(i)
				if got := f.Load(); got != i {
					t.Errorf("field at %d: stored %d, loads %d", off, i, got)
					return
				}
			}
		})
	}
	wg.Wait()
}

// Store, then load the other's field, on both sides: at least one of the two
// must see the other's store (the barrier that notifications hang on). On mapped memory
// too: the race detector's atomics do not go the same way there.
func TestStoreThenLoadOther(t *testing.T) {
	file, err := guestmem.New([]*guestmem.Region{mapped(t, memfd(t, page), guestmem.RegionDesc{Size: page})})
	if err != nil {
		t.Fatal(err)
	}
	for name, mem := range map[string]*guestmem.Memory{"heap": heap(t, guestmem.RegionDesc{Size: page}), "mapped": file} {
		b, err := mem.Bytes(0, page)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name+", 16 bits", func(t *testing.T) {
			storeThenLoadOther(t, [2]guestmem.Uint16{guestmem.Uint16At(b, 0), guestmem.Uint16At(b, 128)})
		})
		t.Run(name+", 32 bits", func(t *testing.T) {
			storeThenLoadOther(t, [2]guestmem.Uint32{guestmem.Uint32At(b, 256), guestmem.Uint32At(b, 384)})
		})
	}
}

func storeThenLoadOther[T uint16 | uint32, F interface {
	Store(T)
	Load() T
}](t *testing.T, side [2]F) {
	const rounds = 50000
	var saw [2][rounds + 1]T
	var wg sync.WaitGroup
	for s := range 2 {
		wg.Go(func() {
			for i := T(1); i <= rounds; i++ {
				side[s].Store(i)
				saw[s][i] = side[1-s].Load()
			}
		})
	}
	wg.Wait()
	// When side 0 stored i and then saw an older j of side 1, then side 1 stored
	// j+1 only later, and must have seen at least i after it. A zero may be the
	// moment between clearing and setting, and says nothing.
	for i := 1; i <= rounds; i++ {
		j := int(saw[0][i])
		if j == 0 || j >= rounds {
			continue
		}
		if got := int(saw[1][j+1]); got != 0 && got < i {
			t.Fatalf("0 stored %d and saw %d, 1 stored %d and saw %d: both missed the other", i, j, j+1, got)
		}
	}
}
