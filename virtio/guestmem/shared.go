//go:build amd64 || arm64

package guestmem

import (
	"sync/atomic"
	"unsafe"
)

// Virtqueues share 16 bit fields: indices, flags, event indices. sync/atomic has
// no 16 bit operations, so a field is accessed by 32 bit ones on the aligned
// word around it. That is sound here because
//
//   - on the two (little-endian) architectures of the build line an aligned 32
//     bit access and an aligned 16 bit access to a part of it are both
//     single-copy atomic, and are ordered with each other like accesses to one
//     location: the other side may go on using plain 16 bit ones, as Linux does
//     (READ_ONCE and WRITE_ONCE in drivers/virtio/virtio_ring.c);
//   - a load disturbs nothing, whatever the other half of the word holds;
//   - a store changes only its own half: see Uint16.Store;
//   - the word never lies outside the mapping, which begins and ends on a page.
//
// # Ordering
//
// Go's atomics are sequentially consistent (The Go Memory Model, "Atomic
// Values"). On hardware that makes a Load an acquire (MOV; LDAR), a Store a
// release (XCHG; STLR), and, what the event indices need, it keeps an atomic
// store ahead of an atomic load that follows it, even of another location: XCHG
// is a full barrier, and LDAR is not performed before an earlier STLR (Arm ARM,
// "Barrier-ordered-before"). Linux spells these three smp_load_acquire,
// smp_store_release and smp_mb (Documentation/memory-barriers.txt,
// arch/arm64/include/asm/barrier.h). Plain loads and stores, of ring entries and
// descriptors, are ordered by the atomic access to the index that publishes
// them.

// Uint16 is a little-endian 16 bit field in shared memory.
type Uint16 struct {
	word  *uint32
	shift uint8 // 0 or 16
}

// Uint16At is the field at b[off] and b[off+1]. Its address must be even, which
// callers have checked; anything else is a bug and panics.
func Uint16At(b []byte, off int) Uint16 {
	p := field(b, off, 2)
	if uintptr(p)&1 != 0 {
		panic("guestmem: a shared 16 bit field at an odd address")
	}
	return Uint16{
		word:  (*uint32)(unsafe.Pointer(uintptr(p) &^ 3)),
		shift: uint8(uintptr(p)&2) * 8,
	}
}

// field is the address of b[off:off+n], which lies inside b. It does not touch
// the memory.
func field(b []byte, off, n int) unsafe.Pointer {
	b = b[off:len(b):len(b)]
	return unsafe.Pointer(unsafe.SliceData(b[:n]))
}

// Load reads the field, with acquire semantics.
func (f Uint16) Load() uint16 {
	return uint16(atomic.LoadUint32(f.word) >> f.shift)
}

// Store writes the field, with release semantics. The two bytes beside it may belong to the
// driver and be written meanwhile, so they are never stored back: the field is cleared and
// then set, each by an atomic operation that changes no other bit. The other side may see
// the zero in between. That is acceptable for an event index: its value decides only about
// a notification, and the side that writes one reads the ring again afterwards.
func (f Uint16) Store(v uint16) {
	atomic.AndUint32(f.word, ^(uint32(0xffff) << f.shift))
	atomic.OrUint32(f.word, uint32(v)<<f.shift)
}

// Uint32 is a little-endian 32 bit field in shared memory.
type Uint32 struct{ word *uint32 }

// Uint32At is the field at b[off:off+4]. Its address must be a multiple of 4,
// which callers have checked; anything else is a bug and panics.
func Uint32At(b []byte, off int) Uint32 {
	p := field(b, off, 4)
	if uintptr(p)&3 != 0 {
		panic("guestmem: a shared 32 bit field at an address that is not a multiple of 4")
	}
	return Uint32{(*uint32)(p)}
}

// Load reads the field, with acquire semantics.
func (f Uint32) Load() uint32 { return atomic.LoadUint32(f.word) }

// Store writes the field, with release semantics, ahead of every Load that follows. It
// is a swap because the race detector makes a plain release (MOV) of a StoreUint32 to
// memory outside of the heap, and both sides of a ring slept now and then. Without the
// detector the two are the same instruction on amd64.
func (f Uint32) Store(v uint32) { atomic.SwapUint32(f.word, v) }

// Aligned says whether b starts at an address in this process that is a multiple
// of n, a power of two.
func Aligned(b []byte, n uintptr) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))&(n-1) == 0
}
