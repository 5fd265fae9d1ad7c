package image

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime/debug"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/memfault"
)

// A LiveTable is the live zone table of an image that is open for writing. One aligned
// 64-bit word of it is stored with every write that lands.
//
// On a file system in memory it is mapped, and a word is stored into the mapping. On
// all others it must not be: a store into a page that has been written back faults, and
// a file system that is frozen (fsfreeze), full or hung blocks that fault
// (page_mkwrite) for as long as it likes. In Go code it would block the whole process,
// for the garbage collector waits for every thread that runs Go code, and all others
// wait for it. Nor may a system call run into the fault: the kernel holds the lock on
// the process's memory map (mmap_lock) meanwhile, so the next mmap or munmap waits, and
// behind that all page faults. So there a word is written to the file, with pwrite(2),
// which waits before it takes any lock of the process's, and for which nothing waits
// but its caller.
type LiveTable struct {
	mem   []byte // the mapping, page-aligned; nil where there is none
	FD    int    // of the file
	words []byte // what was written to the file; nil where there is a mapping
}

// openLive opens the live table of f, n bytes long.
func openLive(f *os.File, n int) (t LiveTable, err error) {
	t.FD = int(f.Fd())
	var fs unix.Statfs_t
	if err := unix.Fstatfs(t.FD, &fs); err != nil {
		return t, fmt.Errorf("the file system of the image: %w", err)
	}
	if !disk.InMemory(fs.Type) {
		t.words = make([]byte, n)
		return t, nil
	}
	if t.mem, err = unix.Mmap(t.FD, format.LiveOff, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return t, fmt.Errorf("map the zone table: %w", err)
	}
	// A mapping has the image open, and with it its lock: see internal/foreign.
	_ = unix.Madvise(t.mem, unix.MADV_DONTFORK)
	return t, nil
}

// Store makes w the entry of zone i, whose lock is held. A kill -9 leaves the old
// entry or the new one: see docs/image-format.md. It reports false when that fails,
// which is the disk under the image failing.
func (t *LiveTable) Store(i int, w zone.Entry) bool {
	switch {
	case t.words != nil:
		binary.LittleEndian.PutUint64(t.words[8*i:], uint64(w))
		return t.write(8*i, 8)
	case t.mem != nil:
		return t.storeHere(i, w)
	}
	return false // it is closed
}

// storeHere is store into the mapping. The caller's goroutine has
// debug.SetPanicOnFault on.
func (t *LiveTable) storeHere(i int, w zone.Entry) (ok bool) {
	defer func() {
		if v := recover(); v != nil && !t.faulted(v) {
			panic(v)
		}
	}()
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&t.mem[8*i])), uint64(w))
	return true
}

// faulted says whether v, which was recovered, is a fault on the mapping.
func (t *LiveTable) faulted(v any) bool {
	addr, ok := memfault.Addr(v)
	return ok && memfault.In(t.mem, addr)
}

// write writes n bytes at byte at of the table to the file.
func (t *LiveTable) write(at, n int) bool {
	for end := at + n; at < end; {
		var got int
		err := engine.Retry(func() (err error) {
			got, err = unix.Pwrite(t.FD, t.words[at:end], format.LiveOff+int64(at))
			return err
		})
		if err != nil || got == 0 {
			return false
		}
		at += got
	}
	return true
}

// storeAll makes words the table. It reports false when a store failed.
func (t *LiveTable) storeAll(words []zone.Entry) bool {
	if t.mem != nil {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		for i, w := range words {
			if !t.storeHere(i, w) {
				return false
			}
		}
		return true
	}
	for i, w := range words {
		binary.LittleEndian.PutUint64(t.words[8*i:], uint64(w))
	}
	return t.write(0, 8*len(words))
}

// Close unmaps the table and returns the error of that. What was stored stays in the file,
// and Store fails from then on.
func (t *LiveTable) Close() (err error) {
	if t.mem != nil {
		err = unix.Munmap(t.mem)
	}
	*t = LiveTable{}
	return err
}
