package guestmem

import (
	"fmt"
	"math"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// LogPageBytes is the size of a page of the dirty log (VHOST_LOG_PAGE of the
// vhost-user protocol), whatever the machine's is.
const LogPageBytes = 4096

// Unlogged is used as the guest address of memory that is not marked.
const Unlogged = math.MaxUint64

// A Log is a bitmap that a front-end shares with the daemon, one bit for each page of guest
// memory. During a migration the daemon marks each page that it writes, and the front-end
// copies the page again (vhost-user, "Migration"). Any number of goroutines may mark.
type Log struct {
	region *Region
	bits   []byte
}

// MapLog maps size bytes of the file behind fd, from offset on, as a log. The caller keeps
// fd, and releases the log with Unmap.
func MapLog(fd int, size, offset uint64) (*Log, error) {
	r, err := Map(fd, RegionDesc{Size: size, MmapOffset: offset})
	if err != nil {
		return nil, fmt.Errorf("dirty log: %w", err)
	}
	return &Log{region: r, bits: r.mem}, nil
}

// HeapLog makes a log of ordinary Go memory, for tests.
func HeapLog(size uint64) *Log {
	r := Heap(RegionDesc{Size: size})
	return &Log{region: r, bits: r.mem}
}

// Unmap releases the log; it must not be used any more.
func (l *Log) Unmap() error {
	l.bits = nil
	return l.region.Unmap()
}

// Covers reports whether the n bytes at a guest address are within the log.
func (l *Log) Covers(guestAddr, n uint64) bool {
	if n == 0 {
		return true
	}
	last := guestAddr + n - 1
	return last >= guestAddr && last/LogPageBytes/8 < uint64(len(l.bits))
}

// Mark marks the pages of the n bytes at a guest address, which have been written before;
// pages outside the log are ignored. The front-end reads and clears a word of marks and
// then copies the pages, so each mark is an atomic operation with a full barrier, even if
// the bit is set already: otherwise the written data could become visible only after it was
// copied (Linux has smp_wmb and set_bit in log_write, drivers/vhost/vhost.c; a bit that is
// set is set again there too).
func (l *Log) Mark(guestAddr, n uint64) {
	if n == 0 {
		return
	}
	first, last := guestAddr/LogPageBytes, (guestAddr+n-1)/LogPageBytes
	last = min(last, uint64(len(l.bits))*8-1)
	for page := first; page <= last; {
		word, mask := l.word(page)
		for page++; page <= last; page++ {
			w, m := l.word(page)
			if w != word {
				break
			}
			mask |= m
		}
		atomic.OrUint32(word, mask)
	}
}

// Dirty reports whether a page is marked, and clears the mark, as a front-end does. It is
// for tests.
func (l *Log) Dirty(page uint64) bool {
	if page/8 >= uint64(len(l.bits)) {
		return false
	}
	word, mask := l.word(page)
	return atomic.AndUint32(word, ^mask)&mask != 0
}

// word is where the mark of a page is. Words are those of memory, not of the log, which may
// begin anywhere in a page of the file: bits around the log are not changed (see Uint16).
func (l *Log) word(page uint64) (*uint32, uint32) {
	p := unsafe.Pointer(&l.bits[page/8])
	shift := (uintptr(p)&3)*8 + uintptr(page%8)
	return (*uint32)(unsafe.Pointer(uintptr(p) &^ 3)), 1 << shift
}

// GuestAddr is the guest address of memory that AppendIovecs or Bytes have returned; false
// for any other memory.
func (m *Memory) GuestAddr(v unix.Iovec) (uint64, bool) {
	at := uintptr(unsafe.Pointer(v.Base))
	spans := m.all()
	for i := range spans {
		s := &spans[i]
		off := uint64(at - uintptr(unsafe.Pointer(unsafe.SliceData(s.mem))))
		if off < s.size && v.Len <= s.size-off {
			return s.guest + off, true
		}
	}
	return 0, false
}
