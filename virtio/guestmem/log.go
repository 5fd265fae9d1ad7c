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

// Unlogged stands for the guest address of what is not to be marked.
const Unlogged = math.MaxUint64

// A Log is a bitmap that a front-end shares with us, one bit for each page of
// guest memory: while a machine moves to another host, whoever writes into a page
// marks it there, and the front-end copies it once more (vhost-user, "Migration").
// Any number of goroutines may mark.
type Log struct {
	region *Region
	bits   []byte
}

// MapLog maps size bytes of the file behind fd, from offset on, as a log. fd stays
// the caller's. The log is to be given back with Unmap.
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

// Unmap gives the log back; nobody may mark in it any more.
func (l *Log) Unmap() error {
	l.bits = nil
	return l.region.Unmap()
}

// Covers says whether the n bytes at a guest address lie within the log.
func (l *Log) Covers(guestAddr, n uint64) bool {
	if n == 0 {
		return true
	}
	last := guestAddr + n - 1
	return last >= guestAddr && last/LogPageBytes/8 < uint64(len(l.bits))
}

// Mark marks the pages of the n bytes at a guest address, which have been written
// before; pages outside the log are left out. The front-end takes a word of marks
// and then copies the pages, so each mark is an atomic operation that is a full
// barrier, even where the bit is set already: else what was written could become
// visible only after it was copied (Linux has smp_wmb and set_bit in log_write,
// drivers/vhost/vhost.c; a bit that is set is set again there too).
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

// Dirty says whether a page is marked, and takes the mark away, as a front-end
// does. It is for tests.
func (l *Log) Dirty(page uint64) bool {
	if page/8 >= uint64(len(l.bits)) {
		return false
	}
	word, mask := l.word(page)
	return atomic.AndUint32(word, ^mask)&mask != 0
}

// word is where the mark of a page is. Words are those of memory, not of the
// log, which may begin anywhere in a page of the file: bits around it are not
// touched (see Uint16).
func (l *Log) word(page uint64) (*uint32, uint32) {
	p := unsafe.Pointer(&l.bits[page/8])
	shift := (uintptr(p)&3)*8 + uintptr(page%8)
	return (*uint32)(unsafe.Pointer(uintptr(p) &^ 3)), 1 << shift
}

// GuestAddr is the guest address of memory that AppendIovecs or Bytes have
// returned; false of any other.
func (m *Memory) GuestAddr(v unix.Iovec) (uint64, bool) {
	at := uintptr(unsafe.Pointer(v.Base))
	for i := range m.spans {
		s := &m.spans[i]
		off := uint64(at - uintptr(unsafe.Pointer(unsafe.SliceData(s.mem))))
		if off < s.size && v.Len <= s.size-off {
			return s.guest + off, true
		}
	}
	return 0, false
}
