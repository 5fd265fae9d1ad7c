package drive

import "github.com/zvhost/zvhost/backend/disk"

// A request is a request to a drive: what the drive has to know of it.
type request struct {
	*disk.Request
	step step
	zone int32 // of a request to one zone, or the first of the zones [zone, to) that are at work
	to   int32

	// Of a write: where it goes, and where it ends, in sectors from the zone's start;
	// again says that another daemon had given it that place, and landed how many sectors
	// of it have been written by that one.
	from, end uint64
	again     bool
	landed    uint64
	followers disk.List    // whose data moves with this one's
	part      int          // of clip, what the next part of the I/O begins with
	copied    *disk.Bounce // memory in the place of Iov
	cause     error        // what its I/O failed with
	tried     [2]uint64    // of that I/O, if it wrote: up to where the data surely went, and was to go

	asked uint64 // of a report: which of all that the drive was asked for it is
}

// requestOf is what the drive knows of r.
func requestOf(r *disk.Request) *request {
	if d, ok := r.Own.(*request); ok {
		return d
	}
	d := &request{Request: r}
	r.Own = d
	return d
}

// A step says what Continue has to do next.
type step uint8

const (
	stepRead     step = iota // the data has been read
	stepAdmitted             // it has its zone and an address, or waited for memory: write
	stepWrote                // the data, or a part of it, has been written
	stepUnknown              // it has its zone, which has to be looked at first
	stepAllowed              // it has its zone, which allows the operation: start it
	stepManaged              // the zone operation has been carried out
	stepReread               // the zones that it has have been looked at
	stepHeld                 // a reset-all waited for zone number zone and has it: go on behind it
	stepReset                // zones side by side have been reset
	stepReport               // it waited for memory: zones are to be looked at
	stepReported             // zones have been looked at
	stepSynced               // the device has been synced
)
