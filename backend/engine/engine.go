package engine

import (
	"errors"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Code says what an Op does.
type Code uint8

// The operations of an engine.
const (
	Readv     Code = iota // preadv: Iov is filled from Off on
	Writev                // pwritev: Iov is written at Off
	Fdatasync             // what was written is made stable
	PunchHole             // [Off, Off+Len) reads as zeroes, its space is given back
	ZeroRange             // [Off, Off+Len) reads as zeroes, its space is kept

	// Those of a zoned block device (include/uapi/linux/blkzoned.h). Off and Len
	// are whole zones, but for the last one.
	ZoneReset  // BLKRESETZONE
	ZoneOpen   // BLKOPENZONE
	ZoneClose  // BLKCLOSEZONE
	ZoneFinish // BLKFINISHZONE
	// ZoneReport is BLKREPORTZONE: Iov[0] is filled with a struct blk_zone_report
	// of the zones from Off on, as many as there is room for.
	ZoneReport
)

// An Op is one I/O. Its owner fills it and hands it to Engine.Queue; from then
// until Engine.Reap returns it, it belongs to the engine.
type Op struct {
	Code  Code
	Dsync bool // Writev: stable when done (RWF_DSYNC)
	FD    int
	Off   int64 // bytes, not negative
	Len   int64 // bytes; for Readv and Writev the sum of Iov
	// Iov is the data, straight in guest memory. The engine does not change it.
	Iov []unix.Iovec

	// N is how many bytes were moved, and Err why it was not all of them. An
	// engine goes on after a short transfer, so Err is nil exactly when all
	// Len bytes were moved. A read behind the end of the file ends with
	// io.ErrUnexpectedEOF.
	N   int64
	Err error

	// Quit, where it is not nil and becomes true, has a read end with ErrQuit as far as
	// it has not begun: nobody wants its data any more.
	Quit *atomic.Bool

	// Owner is the submitter's, untouched by the engine.
	Owner any

	next  *Op          // the rest is the engine's
	rest  []unix.Iovec // what is left of Iov after a short transfer, in spare
	spare []unix.Iovec
}

// ErrQuit is what a read ends with that was not carried out because of Op.Quit.
var ErrQuit = errors.New("the read was given up: nobody waits for it any more")

// quits says whether op is not to be carried out, or not any further.
func (op *Op) quits() bool { return op.Quit != nil && op.Code == Readv && op.Quit.Load() }

// Spare is how many vectors op keeps for the rest of short transfers. It must not be
// in flight.
func (op *Op) Spare() int { return cap(op.spare) }

// DropSpare gives them back.
func (op *Op) DropSpare() { op.rest, op.spare = nil, nil }

// An Engine carries out Ops. All its methods but the completion of Ops belong
// to one goroutine.
type Engine interface {
	// Queue stages an Op. Nothing needs to happen before Submit.
	Queue(op *Op)
	// Submit starts everything that was staged.
	Submit()
	// Reap returns a finished Op, or nil when none is finished yet. When an Op
	// finishes after Reap has returned nil, the engine calls its wake function, or
	// Wait returns.
	Reap() *Op
	// Wait sleeps until one of fds can be read, and says so in its Revents, or
	// until Reap may have something to return. It may also return for no reason.
	// A descriptor of -1 is passed over.
	Wait(fds []unix.PollFd)
	// Err is why the kernel takes no more Ops, nil while it does. What it has not taken
	// ends with EIO then, and so does what is queued from then on; what it has taken
	// ends as it always does.
	Err() error
	// Close waits for what is in flight and gives back the engine's resources.
	Close() error
}
