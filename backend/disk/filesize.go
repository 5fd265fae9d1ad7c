package disk

import (
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/memfault"
)

// A FileSize notices that somebody else cuts the file or device under an open disk
// short.
//
// Nothing of such a file can be trusted any more. The next write behind its new end
// makes it longer again, with a hole before it: what was cut off then reads as zeroes,
// without an error, and the size is as it was. So the size is looked at before the
// first write of each batch, while it still shows, at each flush, and when a read ends
// before its time; and once it was too small every request fails.
type FileSize struct {
	fd    int          // of the file, best one without O_DIRECT: NFS then need not ask its server
	Least atomic.Int64 // bytes that the disk stands on
	short atomic.Pointer[error]
	end   *lastPage // nil where there is none

	beneath []Beneath // files that a loop device shows; they may be cut short without it
}

// Start has the file or device of fd watched, on which the disk needs least bytes.
func (s *FileSize) Start(fd int, least int64) {
	s.fd = fd
	s.Least.Store(least)
}

// Watch has the files that a device stands on watched, too: a loop device is as large as
// before when its file is cut short, and the next write makes the file longer again.
func (s *FileSize) Watch(beneath []Beneath) { s.beneath = beneath }

// A lastPage is the page that the last byte of a disk's file is in, of a file system in
// memory, mapped. To load a byte of it faults once the file ends before the page, so the
// size needs no system call to be looked at: one more for each eight writes of 4 KiB cost
// 8 % of them (depth 32, tmpfs). Elsewhere a page that is not in the page cache is read
// from the disk, and the whole process waits for that fault: see LiveTable in backend/image.
type lastPage struct {
	mem []byte
	// tail is the sector from which on a write may change the page. A file that is cut
	// short within the page shows only in its size, and no more after such a write.
	tail uint64
	left atomic.Bool // the file's end is another page by now
}

// MapEnd makes looking cheaper where that is possible, for a disk on which sectors from
// tail on may be in the file's last page. It is called before the first before.
func (s *FileSize) MapEnd(tail uint64) {
	var fs unix.Statfs_t
	var st unix.Stat_t // a device may be in a file system in memory
	if unix.Fstatfs(s.fd, &fs) != nil || !InMemory(fs.Type) || unix.Fstat(s.fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return
	}
	mem, err := unix.Mmap(s.fd, (s.Least.Load()-1)&^(PageBytes-1), PageBytes, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return // look does it
	}
	// A mapping has the disk open, and with it its lock: see internal/foreign.
	_ = unix.Madvise(mem, unix.MADV_DONTFORK)
	s.end = &lastPage{mem: mem, tail: tail}
}

// Close gives the mapping back. No request may be in flight.
func (s *FileSize) Close() (err error) {
	if s.end != nil {
		err = unix.Munmap(s.end.mem)
		s.end = nil
	}
	return err
}

// Grow takes note that the disk stands on so many bytes from now on.
func (s *FileSize) Grow(least int64) {
	if s.end != nil {
		s.end.left.Store(true)
	}
	s.Least.Store(least)
}

// serves says whether isThere is enough to look at before r, which changes the file.
func (p *lastPage) serves(r *Request) bool {
	return p != nil && !p.left.Load() && (r.Op == OpWrite || r.Op == OpAppend) &&
		r.Sector <= p.tail && r.Bytes>>SectorShift <= p.tail-r.Sector
}

// isThere loads a byte of the page.
func (p *lastPage) isThere() (ok bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if v := recover(); v != nil {
			if addr, fault := memfault.Addr(v); !fault || !memfault.In(p.mem, addr) {
				panic(v)
			}
		}
	}()
	// The pointer is valid: mem is one page, and no request is in flight when it is unmapped.
	atomic.LoadUint32((*uint32)(unsafe.Pointer(unsafe.SliceData(p.mem))))
	return true
}

// Failed is the error of every request once the file was found too short; nil before
// that.
func (s *FileSize) Failed() error {
	if err := s.short.Load(); err != nil {
		return *err
	}
	return nil
}

// Look finds out whether the file is long enough, and returns what failed does from now
// on. It does not allocate while all is well.
func (s *FileSize) Look() error {
	if err := s.Failed(); err != nil {
		return err
	}
	least := s.Least.Load() // before the size, which may grow meanwhile
	err := s.look(s.fd, least, "the disk's file")
	for i := 0; i < len(s.beneath) && err == nil; i++ {
		b := &s.beneath[i]
		err = s.look(int(b.File.Fd()), b.Bytes, b.File.Name())
	}
	return err
}

// look is Look for one file, which is called what.
func (s *FileSize) look(fd int, least int64, what string) error {
	size, err := SizeOf(fd)
	switch {
	case err != nil:
		return fmt.Errorf("%w: ask for the size of the disk's file: %w", ErrIO, err)
	case size >= least:
		return nil
	}
	short := fmt.Errorf("%w: %s has %d bytes, and the disk needs %d: somebody has cut it short while it is served, so nothing of it is served any more; stop zvhost, and restore the file", ErrIO, what, size, least)
	s.short.CompareAndSwap(nil, &short)
	return s.Failed()
}

// Before looks, for a request that is about to change the file, unless another one of
// its batch has done so.
func (s *FileSize) Before(r *Request) error {
	l := r.Lane
	if l.looked || l.peeked && s.end.serves(r) {
		return s.Failed()
	}
	if s.end.serves(r) && s.end.isThere() { // else look says whether that is why
		l.peeked = true
		return s.Failed()
	}
	l.looked = true
	return s.Look()
}

// SizeOf is the size of a file or block device in bytes. Nobody uses the offset of
// its descriptor.
func SizeOf(fd int) (int64, error) { return unix.Seek(fd, 0, unix.SEEK_END) }

// InMemory says whether a file system (statfs(2), f_type) keeps its files in memory
// alone. It cannot be frozen, and writes no page back, so a page that was stored into
// once can be stored into for ever.
func InMemory(fs int64) bool { return fs == unix.TMPFS_MAGIC || fs == unix.RAMFS_MAGIC }
