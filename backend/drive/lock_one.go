//go:build zvhost_onelock

package drive

import (
	"sync"

	"github.com/zvhost/zvhost/backend/disk"
)

// deviceLock is one lock over all zones of a drive, held while the data of a write
// goes down. So did what zvhost grew out of (wps->colock in raw_co_prw, QEMU's
// block/file-posix.c); it is here so that bench/drives.sh can measure beside it,
// and in nothing that is shipped. Nor are writes that follow one another made one.
type deviceLock struct {
	mu    sync.Mutex
	owner *request
	line  disk.List
}

const oneLock = true

// take says whether r has the drive; if not it waits, and is issued again when it
// has.
func (l *deviceLock) take(r *request) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.owner == nil {
		l.owner = r
	}
	if l.owner != r {
		l.line.Push(r.Request)
	}
	return l.owner == r
}

// give hands drive d on, after I/O that was on lane.
func (l *deviceLock) give(d *Drive, lane *disk.Lane) {
	l.mu.Lock()
	l.owner = nil
	if q := l.line.Pop(); q != nil {
		l.owner = requestOf(q)
	}
	next := l.owner
	l.mu.Unlock()
	d.run(next, lane)
}
