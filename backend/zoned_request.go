package backend

import (
	"github.com/zvhost/zvhost/backend/disk"
)

// A zonedRequest is a request to a zoned disk: what the disk has to know of it.
type zonedRequest struct {
	*disk.Request
	step  zonedStep
	after zonedStep // of zonedSpan: what comes then
	zone  int32     // of a request to one zone, or the zone that one to many has come to

	// Of a write: where it goes, and where it ends, in sectors from the zone's start.
	from, end  uint64
	admission  uint64        // which of the zone's writes it is, in the order of admission
	prev, next *zonedRequest // the zone's writes in flight, in the order of their addresses
	soiled     bool          // what it left when it failed could not be cleared

	rangeNo uint32     // of an erase: the range that it has come to
	looks   int        // of an erase: how often it was looked for old data behind it
	to      ZoneTarget // of disk.OpSetState
}

// zonedOf is what the disk knows of r.
func zonedOf(r *disk.Request) *zonedRequest {
	if z, ok := r.Own.(*zonedRequest); ok {
		return z
	}
	z := &zonedRequest{Request: r}
	r.Own = z
	return z
}

// A zonedStep says what Continue has to do next.
type zonedStep uint8

const (
	zonedMoved    zonedStep = iota // data has been moved for which no write pointer waits
	zonedWrote                     // the data of a sequential write has been moved
	zonedScrubbed                  // what a failed write left behind has been zeroed
	zonedAdmitted                  // it waited for its zone and has an address: write
	zonedChanged                   // it waited for its zone and has been carried out
	zonedReset                     // a reset-all waited for zone number zone, which is reset: go on behind it
	zonedErase                     // the same of an erase
	zonedSpan                      // it waited for a part of an edged file: do what after says
)
