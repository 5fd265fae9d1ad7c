package backend

import "github.com/zvhost/zvhost/backend/disk"

// A driveRequest is a request to a drive: what the drive has to know of it.
type driveRequest struct {
	*disk.Request
	step driveStep
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

// driveOf is what the drive knows of r.
func driveOf(r *disk.Request) *driveRequest {
	if d, ok := r.Own.(*driveRequest); ok {
		return d
	}
	d := &driveRequest{Request: r}
	r.Own = d
	return d
}

// A driveStep says what Continue has to do next.
type driveStep uint8

const (
	driveRead     driveStep = iota // the data has been read
	driveAdmitted                  // it has its zone and an address, or waited for memory: write
	driveWrote                     // the data, or a part of it, has been written
	driveUnknown                   // it has its zone, which has to be looked at first
	driveAllowed                   // it has its zone, which allows the operation: start it
	driveManaged                   // the zone operation has been carried out
	driveReread                    // the zones that it has have been looked at
	driveHeld                      // a reset-all waited for zone number zone and has it: go on behind it
	driveReset                     // zones side by side have been reset
	driveReport                    // it waited for memory: zones are to be looked at
	driveReported                  // zones have been looked at
	driveSynced                    // the device has been synced
)
