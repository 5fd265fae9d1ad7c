package plain

import "github.com/zvhost/zvhost/backend/disk"

// A plainRequest is a request to an ordinary disk: what the disk has to know of it.
type request struct {
	*disk.Request
	step  step
	after step // of plainSpan: what comes then

	rangeNo int       // of a discard or write-zeroes: the range that it has come to,
	at      int64     // and how many bytes of that are done, where blocks of the storage are larger
	sharers disk.List // of one that leads a sync: whose sync it is, too
}

// plainOf is what the disk knows of r.
func requestOf(r *disk.Request) *request {
	if p, ok := r.Own.(*request); ok {
		return p
	}
	p := &request{Request: r}
	r.Own = p
	return p
}

// A plainStep says what Continue has to do next.
type step uint8

const (
	stepMoved  step = iota // the data has been moved
	stepRange              // one of Ranges, or a part of it, is done
	stepLead               // it waited, and is to lead the next sync
	stepSynced             // the sync that it led has ended
	stepShared             // a sync that another led, for this one too, has ended
	stepSpan               // it waited for a part of an edged file: do what after says
)
