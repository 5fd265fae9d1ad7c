package virtio

import (
	"encoding/binary"
	"errors"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/internal/iovec"
)

// The types of a request (struct virtio_blk_req, type).
const (
	BlkTypeIn           uint32 = 0
	BlkTypeOut          uint32 = 1
	BlkTypeFlush        uint32 = 4
	BlkTypeGetID        uint32 = 8
	BlkTypeGetLifetime  uint32 = 10
	BlkTypeDiscard      uint32 = 11
	BlkTypeWriteZeroes  uint32 = 13
	BlkTypeSecureErase  uint32 = 14
	BlkTypeZoneAppend   uint32 = 15
	BlkTypeZoneReport   uint32 = 16
	BlkTypeZoneOpen     uint32 = 18
	BlkTypeZoneClose    uint32 = 20
	BlkTypeZoneFinish   uint32 = 22
	BlkTypeZoneReset    uint32 = 24
	BlkTypeZoneResetAll uint32 = 26
)

const (
	headerBytes       = 16 // struct virtio_blk_req up to data
	statusBytes       = 1
	appendSectorBytes = 8  // append_sector (struct virtio_blk_req_za)
	segmentBytes      = 16 // struct virtio_blk_discard_write_zeroes
	segmentFlagUnmap  = 1
)

// A BlkRequest is one request of a guest on its way from a ring through a disk and back. A
// worker has a table of them and reuses each:
//
//	ok, err := queue.Pop(&r.Chain)
//	if blk.Decode(r) {
//		lane.Submit(disk, &r.Request) // and when it is done:
//	}
//	queue.Push(r.Chain.Head, r.Complete())
//
// From Decode to Complete, the vectors of its Chain belong to it.
type BlkRequest struct {
	disk.Request
	Chain Chain

	// status is the request's last byte, nil if there is none.
	status *byte
	// space is the length of the device-writable part before the status, and filled how
	// much of it, from its beginning, was certainly written.
	space, filled uint64
	// blk fills in the zones of a report once they are up to date.
	blk *Blk
}

// The errors of a request that the disk does not detect. StatusOf makes them IOERR ("device
// or driver error"), except those that it knows.
var (
	errNoStatus    = errors.New("request has no device-writable byte for its status")
	errShortHeader = errors.New("request is shorter than its header of 16 bytes")
	errNoZoned     = errors.New("the disk is zoned, but ZONED was not negotiated")
	errIDLength    = errors.New("GET_ID with a buffer that is not 20 bytes long")
	errSegments    = errors.New("data is not one to max_seg segments of 16 bytes")
	errTooLarge    = errors.New("more data than the device takes in one request")
	errRangeLength = errors.New("segment is longer than the device allows")
)

// Vectors is how many vectors, of 16 bytes each, the request keeps for later chains. It
// must not be in flight.
func (r *BlkRequest) Vectors() int { return cap(r.Chain.Out) + cap(r.Chain.In) + r.Request.Vectors() }

// DropVectors frees them.
func (r *BlkRequest) DropVectors() {
	r.Iov, r.Chain.Out, r.Chain.In = nil, nil, nil
	r.Request.DropVectors()
}

// begin empties the request for another chain.
func (r *BlkRequest) begin() {
	r.Op, r.Sector, r.Iov, r.Bytes = disk.OpRead, 0, nil, 0
	r.Ranges = r.Ranges[:0]
	r.Stable, r.Err, r.AppendSector = false, nil, 0
	r.status, r.space, r.filled, r.blk = nil, 0, 0, nil
}

// done ends a request that does not go to the disk.
func (r *BlkRequest) done(err error) bool {
	r.Err = err
	return false
}

// submit makes r an operation on the disk.
func (r *BlkRequest) submit(op disk.Op, sector uint64) bool {
	r.Op, r.Sector = op, sector
	return true
}

// Complete writes the outcome, Err and AppendSector, into the request,
// and returns the length for its used entry. It allocates nothing.
//
// The length counts bytes from the beginning of the device-writable part that were
// certainly written, since a driver may assume that the device wrote all of them ("The
// Virtqueue Used Ring": an underestimate is allowed, an overestimate is not). So it is the
// whole part for a read that succeeded, 1 for a request without data in it, and 0 for a
// read that failed: the status is behind data of which nothing is known. Linux reads the
// status whatever the length is. It is 1 for a malformed chain: there is no beginning to
// count from, and the status was written.
//
// A chain without room for a status is not changed, and its length is 0; with
// RingConfig.Answers there is no such chain.
func (r *BlkRequest) Complete() (written uint32) {
	if r.status == nil {
		return 0
	}
	switch {
	case r.blk != nil && r.Err == nil:
		r.blk.putReport(r)
	case r.Op == disk.OpRead && r.Err == nil:
		r.filled = max(r.filled, r.Bytes)
	case r.Op == disk.OpAppend:
		// Undefined unless the append succeeded. Linux uses it as the request's sector
		// before it checks the status, and prints it with the error (virtblk_request_done,
		// drivers/block/virtio_blk.c). So it is the sector of the request.
		at := r.Sector
		if r.Err == nil {
			at = r.AppendSector
		}
		var sector [appendSectorBytes]byte
		binary.LittleEndian.PutUint64(sector[:], at)
		in := iovec.Cursor{Iov: r.Chain.In}
		r.filled = uint64(in.Write(sector[:]))
	}
	*r.status = StatusOf(r.Err)
	if r.filled < r.space {
		return uint32(r.filled)
	}
	return uint32(r.space + statusBytes)
}
