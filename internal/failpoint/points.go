package failpoint

// A Point is a place in the code where it matters that a process may die there.
type Point uint8

// The points, in the order in which a request, a message and a start pass them.
const (
	Take       Point = iota // a request is taken from the ring and recorded
	Admit                   // a write has its address, in the record too
	Table                   // a write has landed, and the live table says so
	Landed                  // the record says so as well
	Managed                 // a zone's state is changed, and the live table says so
	Past                    // one of several zones is done
	Pushed                  // a request goes into the used ring, and the record says so
	Published               // the driver sees it
	Batch                   // the record has half of what the driver sees
	Called                  // all of a completion is done
	Peeked                  // a message was looked at
	Put                     // its descriptors are in the store
	Committed               // what it changed is committed
	Taken                   // it is taken from the socket
	Answered                // and answered
	Started                 // a ring was started in the middle of a message
	Dropped                 // what it made superfluous is dropped
	Opened                  // an image is open and nothing is changed
	InUse                   // it is marked as in use
	Recovered               // it is recovered
	Claimed                 // an address in flight is claimed
	Begun                   // a disk says that requests may be in flight
	Readmitted              // a request in flight is submitted once more
	PickedUp                // a ring is gone on with
	numPoints
)

var names = [numPoints]string{
	"take", "admit", "table", "landed", "managed", "past", "pushed", "published", "batch", "called",
	"peeked", "put", "committed", "taken", "answered", "started", "dropped",
	"opened", "in-use", "recovered", "claimed", "begun", "readmitted", "picked-up",
}

func (p Point) String() string { return names[p] }

// All are the names of all points.
func All() []string { return names[:] }
