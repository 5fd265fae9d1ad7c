package backend

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A fileSize notices that somebody else cuts the file or device under an open disk
// short.
//
// Nothing of such a file can be trusted any more. The next write behind its new end
// makes it longer again, with a hole before it: what was cut off then reads as zeroes,
// without an error, and the size is as it was. So the size is looked at before the
// first write of each batch, while it still shows, at each flush, and when a read ends
// before its time; and once it was too small every request fails.
type fileSize struct {
	fd    int          // of the file, best one without O_DIRECT: NFS then need not ask its server
	least atomic.Int64 // bytes that the disk stands on
	short atomic.Pointer[error]
}

func (s *fileSize) init(fd int, least int64) {
	s.fd = fd
	s.least.Store(least)
}

// failed is the error of every request once the file was found too short; nil before
// that.
func (s *fileSize) failed() error {
	if err := s.short.Load(); err != nil {
		return *err
	}
	return nil
}

// look finds out whether the file is long enough, and returns what failed does from now
// on. It does not allocate while all is well.
func (s *fileSize) look() error {
	if err := s.failed(); err != nil {
		return err
	}
	least := s.least.Load() // before the size, which may grow meanwhile
	size, err := sizeOf(s.fd)
	switch {
	case err != nil:
		return fmt.Errorf("%w: ask for the size of the disk's file: %w", ErrIO, err)
	case size >= least:
		return nil
	}
	short := fmt.Errorf("%w: the disk's file has %d bytes, and it needs %d: somebody has cut it short while it is served, so nothing of it is served any more; stop zvhost, and restore the file", ErrIO, size, least)
	s.short.CompareAndSwap(nil, &short)
	return s.failed()
}

// before looks, for a request on lane l that is about to change the file, unless
// another one of its batch has done so.
func (s *fileSize) before(l *Lane) error {
	if l.looked {
		return s.failed()
	}
	l.looked = true
	return s.look()
}

// sizeOf is the size of a file or block device in bytes. Nobody uses the offset of
// its descriptor.
func sizeOf(fd int) (int64, error) { return unix.Seek(fd, 0, unix.SEEK_END) }
