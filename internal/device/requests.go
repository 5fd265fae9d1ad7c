package device

import "github.com/zvhost/zvhost/virtio"

// What a ring may take of this process's memory, and of the disk's time, whatever
// its front-end says of its size and puts into it. A ring that is at one of these
// limits waits: no more is taken from it until something is answered. None is below
// what an engine has at the disk at once (256 reads and writes), or what a Linux
// guest has in flight in a ring of 128 entries.
//
// Beyond the table itself, 1,025 requests of less than 1 KiB, that makes two vectors of
// 16 bytes for each piece of guest memory in flight, for slices grow by doubling, and as
// many again where a request has to be cut (disk.Request.Vectors), and what requests
// that are not in use retain: less than 4 MiB for each ring.
const (
	maxRequests = 1024      // in flight
	maxPieces   = 16 << 10  // of guest memory, of all requests in flight
	maxBytes    = 128 << 20 // of all requests in flight; one may exceed it
	maxSpare    = 64 << 10  // vectors that requests retain for their next use

	chunkRequests = 64 // made at once
)

// requestTable is a worker's requests. They are made as they are needed and stay
// where they are.
type requestTable struct {
	most  int                  // requests in flight
	small bool                 // the ring has no more entries than that
	all   []*virtio.BlkRequest // by tag
	free  []uint32             // tags of those that are not in flight
	sizes []requestSize

	pieces int    // of what is in flight
	bytes  uint64 // likewise
	spare  int    // vectors of all requests, as they were last returned
}

// requestSize is what the table counts of a request.
type requestSize struct {
	pieces int // while it is in flight
	spare  int
}

func newRequestTable(ringSize uint16) *requestTable {
	return &requestTable{most: min(int(ringSize), maxRequests), small: ringSize <= maxRequests}
}

// tags is how many requests there may be at the most; their tags are less.
func (t *requestTable) tags() int {
	return (t.most/chunkRequests + 1) * chunkRequests
}

// full says that no more may be taken from the ring for now. Something is in flight
// then.
func (t *requestTable) full() bool {
	return t.inFlight() >= t.most && !t.small || t.pieces >= maxPieces || t.bytes >= maxBytes
}

func (t *requestTable) inFlight() int { return len(t.sizes) - len(t.free) }

// next is a request that is not in flight, to be filled and, if that goes well, taken.
// There is always one: when all entries of a small ring are in flight, Pop then says that
// a guest which publishes more has broken its ring.
func (t *requestTable) next() *virtio.BlkRequest {
	if len(t.free) == 0 {
		t.grow()
	}
	return t.at(t.free[len(t.free)-1])
}

func (t *requestTable) grow() {
	chunk := make([]virtio.BlkRequest, chunkRequests)
	for i := range chunk {
		chunk[i].Tag = uint32(len(t.sizes) + i)
		t.all = append(t.all, &chunk[i])
		t.free = append(t.free, uint32(len(t.sizes)+len(chunk)-1-i))
	}
	t.sizes = append(t.sizes, make([]requestSize, len(chunk))...)
}

// at is the request with that tag.
func (t *requestTable) at(tag uint32) *virtio.BlkRequest { return t.all[tag] }

// take makes the request that next has returned one in flight.
func (t *requestTable) take(r *virtio.BlkRequest) {
	t.free = t.free[:len(t.free)-1]
	n := len(r.Chain.Out) + len(r.Chain.In)
	t.sizes[r.Tag].pieces = n
	t.pieces += n
	t.bytes += r.Chain.OutBytes + r.Chain.InBytes
}

// put gives a request back.
func (t *requestTable) put(r *virtio.BlkRequest) {
	s := &t.sizes[r.Tag]
	t.pieces -= s.pieces
	t.bytes -= r.Chain.OutBytes + r.Chain.InBytes
	n := r.Vectors()
	t.spare += n - s.spare
	if t.spare > maxSpare {
		r.DropVectors()
		t.spare, n = t.spare-n, 0
	}
	*s = requestSize{spare: n}
	t.free = append(t.free, r.Tag)
}
