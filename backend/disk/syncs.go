package disk

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/plant"
)

// OpenSyncs opens f's file once more, for syncs and nothing else. Data that the
// kernel could not write back is told of once to each open file description,
// by the fdatasync or RWF_DSYNC write that comes first, whatever that is about
// (file_check_and_advance_wb_err in mm/filemap.c). A write that took the news would
// leave the next flush to say that all is well; here nobody else can take it.
//
// It has no lock: that belongs to the description of f.
func OpenSyncs(f *os.File) (*os.File, error) {
	if plant.ReportedOnce {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		return os.NewFile(uintptr(fd), f.Name()), err
	}
	// By its descriptor: its path may be another file by now.
	syncs, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open it once more, to sync it (this needs /proc to be mounted): %w", err)
	}
	return syncs, nil
}

// Through has r, a write to be that stands in the page cache when it is done unless
// direct says otherwise, made stable if it has to be. A write in the page cache with
// RWF_DSYNC may not be told that it has failed: another one was. So a sync follows,
// and that is one for all.
func (r *Request) Through(direct bool) {
	direct = direct || plant.ReportedOnce
	r.IO.Dsync = r.Stable && direct
	if r.Stable && !direct {
		r.ThenSync = true
	}
}

// LostData is what every sync returns after one has failed. The kernel then may
// have dropped data that guests wrote, and says so only once: the next
// fdatasync would report that all is well (fsync(2), "EIO").
func LostData(cause error) error {
	return fmt.Errorf("an earlier sync failed and may have lost data: %w; restart zvhost to go on with what is on the disk", cause)
}
