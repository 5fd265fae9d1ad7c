package backend

import "github.com/zvhost/zvhost/backend/disk"

// A plainRequest is a request to an ordinary disk: what the disk has to know of it.
type plainRequest struct {
	*disk.Request
	step  plainStep
	after plainStep // of plainSpan: what comes then

	rangeNo int       // of a discard or write-zeroes: the range that it has come to,
	at      int64     // and how many bytes of that are done, where blocks of the storage are larger
	sharers disk.List // of one that leads a sync: whose sync it is, too
}

// plainOf is what the disk knows of r.
func plainOf(r *disk.Request) *plainRequest {
	if p, ok := r.Own.(*plainRequest); ok {
		return p
	}
	p := &plainRequest{Request: r}
	r.Own = p
	return p
}

// A plainStep says what Continue has to do next.
type plainStep uint8

const (
	plainMoved  plainStep = iota // the data has been moved
	plainRange                   // one of Ranges, or a part of it, is done
	plainLead                    // it waited, and is to lead the next sync
	plainSynced                  // the sync that it led has ended
	plainShared                  // a sync that another led, for this one too, has ended
	plainSpan                    // it waited for a part of an edged file: do what after says
)
