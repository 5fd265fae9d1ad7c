package virtio

import (
	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// A dirtyLog marks what a queue's device writes. A queue without one pays a
// branch for each chain and each publication.
type dirtyLog struct {
	log  *guestmem.Log
	mem  *guestmem.Memory
	used uint64 // guest address that writes to the used ring are marked from
	// held are the device-writable pieces of the chains in flight, by head, as guest
	// addresses: whoever answers a request shortens the vectors.
	held [][]piece
}

type piece struct{ guestAddr, n uint64 }

// newDirtyLog is nil where nothing is to be marked.
func newDirtyLog(cfg *RingConfig) *dirtyLog {
	if cfg.Log == nil {
		return nil
	}
	return &dirtyLog{log: cfg.Log, mem: cfg.Mem, used: cfg.UsedLog, held: make([][]piece, cfg.Size)}
}

// hold keeps what of a chain may be written.
func (l *dirtyLog) hold(c *Chain) {
	held := l.held[c.Head][:0]
	for _, v := range c.In {
		if at, ok := l.mem.GuestAddr(v); ok {
			held = append(held, piece{at, v.Len})
		}
	}
	l.held[c.Head] = held
}

// written marks all that may have been written of a chain. How much it really
// was is not known of a request that failed.
func (l *dirtyLog) written(head uint16) {
	for _, p := range l.held[head] {
		l.log.Mark(p.guestAddr, p.n)
	}
	l.held[head] = l.held[head][:0]
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
