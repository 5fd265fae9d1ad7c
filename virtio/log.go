package virtio

import (
	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// A dirtyLog marks the guest memory that a queue's device writes. A queue without one pays
// a branch for each chain and each publication.
type dirtyLog struct {
	log  *guestmem.Log
	mem  *guestmem.Memory
	used uint64 // guest address that writes to the used ring are marked from
	// held are the device-writable pieces of the chains in flight, as guest addresses,
	// since answering a request shortens its vectors. slots maps a head to its slot, and
	// free lists the unused slots.
	held  [][]piece
	slots []uint16
	free  []uint16
}

// keptPieces is the largest number of pieces for which a slot keeps its memory for the next
// chain.
const keptPieces = 128

type piece struct{ guestAddr, n uint64 }

// newDirtyLog is nil if nothing is logged.
func newDirtyLog(cfg *RingConfig) *dirtyLog {
	if cfg.Log == nil {
		return nil
	}
	return &dirtyLog{log: cfg.Log, mem: cfg.Mem, used: cfg.UsedLog, slots: make([]uint16, cfg.Size)}
}

// hold records the pieces of a chain that may be written.
func (l *dirtyLog) hold(c *Chain) {
	if len(l.free) == 0 {
		l.free = append(l.free, uint16(len(l.held)))
		l.held = append(l.held, nil)
	}
	slot := l.free[len(l.free)-1]
	l.free = l.free[:len(l.free)-1]
	l.slots[c.Head] = slot
	held := l.held[slot][:0]
	for _, v := range c.In {
		if at, ok := l.mem.GuestAddr(v); ok {
			held = append(held, piece{at, v.Len})
		}
	}
	l.held[slot] = held
}

// written marks all pieces of a chain that may have been written: for a failed request the
// exact amount is not known.
func (l *dirtyLog) written(head uint16) {
	slot := l.slots[head]
	for _, p := range l.held[slot] {
		l.log.Mark(p.guestAddr, p.n)
	}
	if cap(l.held[slot]) > keptPieces {
		l.held[slot] = nil
	}
	l.free = append(l.free, slot)
}

// ring marks n bytes at an offset of the used ring.
func (l *dirtyLog) ring(off, n int) {
	if l.used != guestmem.Unlogged {
		l.log.Mark(l.used+uint64(off), uint64(n))
	}
}

// guestAddrOf is the guest address of a part of a ring.
func guestAddrOf(mem *guestmem.Memory, b []byte) uint64 {
	at, _ := mem.GuestAddr(unix.Iovec{Base: &b[0], Len: uint64(len(b))})
	return at
}
