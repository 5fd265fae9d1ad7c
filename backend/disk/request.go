package disk

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// SectorSize is the unit of every sector number in this project: 512 bytes,
// whatever the disk's logical block size (virtio, "Block Device").
const SectorSize = 512

// SectorShift is log2(SectorSize).
const SectorShift = 9

// Op says what a Request asks for.
type Op uint8

// The operations of a disk. Those from OpAppend on exist on zoned disks only;
// a disk without zones answers them with ErrUnsupported.
const (
	OpRead Op = iota
	OpWrite
	OpFlush
	OpDiscard
	OpWriteZeroes
	OpAppend
	OpOpen
	OpClose
	OpFinish
	OpReset
	OpResetAll
	OpSecureErase
	// OpReport brings what Disk.ReportZone says of Bytes zones, from the one that
	// holds Sector on, up to date. ZonedInfo.Moves says where that is needed.
	OpReport
	NumOps
)

// What no guest can ask for is none of the operations that Op counts.
const (
	OpSetState Op = 0x80 // puts a zone of an image into a state
	OpCommit   Op = 0x81 // a flush that no fault strikes
)

var opNames = [NumOps]string{
	"read", "write", "flush", "discard", "write-zeroes",
	"append", "open", "close", "finish", "reset", "reset-all", "secure-erase", "report",
}

func (o Op) String() string {
	if o < NumOps {
		return opNames[o]
	}
	return fmt.Sprintf("op(%d)", uint8(o))
}

// The sentinel errors of a disk. virtio/status.go is the one place that maps
// them to virtio status bytes; match them with errors.Is.
var (
	// ErrIO is a medium error: the disk under us failed.
	ErrIO = errors.New("input/output error")
	// ErrUnsupported is a request this disk does not know.
	ErrUnsupported = errors.New("not supported by this disk")
	// ErrReadOnly is a write to a disk opened read-only.
	ErrReadOnly = errors.New("the disk is read-only")
	// ErrRange is a request outside the disk, or one that is not a whole
	// number of logical blocks.
	ErrRange = errors.New("outside the disk or not whole blocks")
)

// RequestError says which request failed, and why. It is made on error paths
// only, so it may allocate.
type RequestError struct {
	Op     Op
	Sector uint64 // first sector of the request
	Bytes  uint64 // length of its data
	Zone   int    // zone number, -1 on a disk without zones
	Err    error  // a sentinel of this package, perhaps wrapping an errno
}

func (e *RequestError) Error() string {
	if e.Zone < 0 {
		return fmt.Sprintf("%s of %d bytes at sector %d: %v", e.Op, e.Bytes, e.Sector, e.Err)
	}
	return fmt.Sprintf("%s of %d bytes at sector %d (zone %d): %v", e.Op, e.Bytes, e.Sector, e.Zone, e.Err)
}

func (e *RequestError) Unwrap() error { return e.Err }

// Range is one segment of a discard or write-zeroes request.
type Range struct {
	Sector  uint64
	Sectors uint32
	Unmap   bool // write-zeroes only: the space may be given back
}

// A Request is one request of a guest on its way through a disk. Its owner (a
// queue worker) keeps a table of them and uses each again and again; between
// Lane.Submit and its return from Lane.Done it belongs to the disk and nothing
// in it may be touched.
type Request struct {
	Op     Op
	Sector uint64 // first sector; for OpAppend the zone's first sector
	// Iov is the data, in guest memory; Bytes is its total length.
	Iov   []unix.Iovec
	Bytes uint64
	// Ranges are the segments of OpDiscard, OpWriteZeroes and OpSecureErase.
	Ranges []Range
	// Stable asks that a request that changes something be on stable storage
	// before it is done: the write-through cache mode.
	Stable bool
	// Tag is the owner's, untouched by the disk.
	Tag uint32
	// Note is where to note what must not be done twice; nil where nobody is to
	// know.
	Note *Note

	// Err is the outcome: nil, or an error wrapping one of the sentinels.
	Err error
	// AppendSector is where an OpAppend landed, valid when Err is nil.
	AppendSector uint64

	Lane  *Lane // where it was submitted and will be done
	disk  Disk
	Next  *Request // the list it stands in: lane, mailbox or a zone's waiting line
	Fault *Outcome // what faults do to it, nil for all but those that a test asked for
	over  bool     // it is done, and on its way to its lane: see deliver

	// Own is what its kind of disk knows of it beside what stands here. The disk makes it
	// when it first sees the request, and uses it again.
	Own any

	IO       engine.Op    // the I/O in flight for this request, one at a time
	Clip     []unix.Iovec // part of Iov, when not all of it goes to the file
	ThenSync bool         // a write: its data, once written, has yet to be made stable
	borrows  bool         // it waits for memory of the daemon's: see borrow
	Bounce   *Bounce      // memory in the place of that in IO.Iov
	unit     int64        // of a detour: see move
	span     span         // what of an edged file it has
}

// Vectors is how many vectors the request keeps for its next I/O beside those of Iov:
// of data that had to be cut. It must not be in flight.
func (r *Request) Vectors() int { return cap(r.Clip) + r.IO.Spare() }

// DropVectors gives them back.
func (r *Request) DropVectors() {
	r.Clip, r.IO.Iov = nil, nil
	r.IO.DropSpare()
}

// Info describes a disk. It never changes while the disk is open.
type Info struct {
	CapacitySectors uint64
	// LogicalBlockSize and PhysicalBlockSize are in bytes, powers of two.
	LogicalBlockSize  uint32
	PhysicalBlockSize uint32
	ReadOnly          bool
	// MaxDiscardSectors, MaxWriteZeroesSectors and MaxEraseSectors bound one
	// Range; zero means that the disk has no such operation.
	MaxDiscardSectors     uint32
	MaxWriteZeroesSectors uint32
	MaxEraseSectors       uint32 // whole zones
	// DiscardGranularity is what a discard can give back, in bytes, a power of two; 0 when
	// that is not known.
	DiscardGranularity uint32
	// Zoned is nil on an ordinary disk.
	Zoned *ZonedInfo
}

// ZonedInfo is the zone geometry of a host-managed disk (struct
// virtio_blk_zoned_characteristics).
type ZonedInfo struct {
	Zones            int    // number of zones, at least 1
	ZoneSectors      uint64 // size of every zone but perhaps the last; a power of two
	MaxOpen          uint32 // 0: no limit
	MaxActive        uint32 // 0: no limit
	MaxAppendSectors uint32
	WriteGranularity uint32 // bytes
	// Moves says that zones change by themselves, so that an OpReport has to come
	// before Disk.ReportZone.
	Moves bool
}

// A Disk carries out requests. Submit may be called by many workers at once,
// each on its own lane.
type Disk interface {
	Info() Info
	// ReportZone returns zone i of a zoned disk, 0 <= i < Info().Zoned.Zones.
	// Any goroutine may call it at any time; it neither blocks on I/O nor
	// allocates.
	ReportZone(i int) zone.Descriptor
	// Faults are what is to go wrong on this disk.
	Faults() *Faults
	// Close ends the disk: no request may be in flight. What was written is
	// synced, and the image marked clean. What Claim keeps is left as it is marked.
	Close() error

	Submit(r *Request)   // admits r: it ends on r's lane, now or later
	Continue(r *Request) // r.IO has finished
}
