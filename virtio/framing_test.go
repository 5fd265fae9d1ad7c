package virtio_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/internal/iovec"
	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
)

// framings are ways to divide the readable and the writable part of a request
// into descriptors ("Message Framing": the device MUST NOT make assumptions).
// Each is a list of sizes; what is left over is the last descriptor.
var framings = map[string]struct {
	out, in  []int
	indirect bool
}{
	"one descriptor each way":   {nil, nil, false},
	"as Linux":                  {[]int{16}, []int{-1}, false},
	"as Linux, indirect":        {[]int{16}, []int{-1}, true},
	"header split":              {[]int{4, 4, 8}, []int{-1}, false},
	"header with data":          {[]int{20, 5}, []int{1, 2}, false},
	"header in single bytes":    {[]int{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, nil, true},
	"footer in single bytes":    {[]int{16}, []int{-9, 1, 1, 1, 1, 1, 1, 1, 1}, true},
	"footer across two":         {[]int{16, 512}, []int{-5}, false},
	"status apart from sector":  {[]int{3}, []int{-9, 8}, false},
	"with empty descriptors":    {[]int{0, 16, 0, 100, 0}, []int{0, -9, 0, 3, 0}, true},
	"data in unequal pieces":    {[]int{16, 1, 511, 3}, []int{7, 600, 1}, false},
	"data with half the footer": {[]int{15, 2}, []int{-4, 2}, false},
}

// onPacked at the end of a framing's name has it in a packed ring.
const onPacked = ", packed ring"

// sizes resolves the one negative size, counted from the end, of a framing.
func sizes(fr []int, total int) []int {
	var s []int
	at := 0
	for _, n := range fr {
		if n < 0 {
			n = max(0, total+n-at)
		}
		s = append(s, n)
		at += n
	}
	return s
}

// A sent request: what the driver's side knows of it.
type sent struct {
	*rig
	r   *virtio.BlkRequest
	in  []driver.Buffer
	sub bool
}

// send puts a request with a readable part of header and out and a writable part
// of inLen bytes through ring and decoder.
func send(t testing.TB, b *virtio.Blk, framing string, typ uint32, sector uint64, out []byte, inLen int) *sent {
	t.Helper()
	header := make([]byte, driver.HeaderBytes)
	driver.PutHeader(header, typ, sector)
	return sendBytes(t, b, framing, append(header, out...), inLen)
}

func sendBytes(t testing.TB, b *virtio.Blk, framing string, out []byte, inLen int) *sent {
	t.Helper()
	name, packed := strings.CutSuffix(framing, onPacked)
	fr, ok := framings[name]
	if !ok {
		t.Fatalf("no framing %q", framing)
	}
	features := uint64(allRing)
	if packed {
		features = allPacked
	}
	s := &sent{rig: newRig(t, 32, features, 0), r: new(virtio.BlkRequest)}
	outBufs := s.split(out, sizes(fr.out, len(out))...)
	s.in = s.split(bytes.Repeat([]byte{0xcc}, inLen), sizes(fr.in, inLen)...)
	var err error
	if fr.indirect {
		s.next = (s.next + 15) &^ 15
		_, err = s.ring.AddIndirect(0, s.alloc(16*64), outBufs, s.in, 0)
	} else {
		_, err = s.ring.Add(outBufs, s.in, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.ring.Publish()
	s.pop(&s.r.Chain)
	s.sub = b.Decode(s.r)
	return s
}

// data is what the vectors of the request hold, and checks Bytes.
func (s *sent) data() []byte {
	s.t.Helper()
	var all []byte
	for _, v := range s.r.Iov {
		all = append(all, iovec.Bytes(v)...)
	}
	if uint64(len(all)) != s.r.Bytes {
		s.t.Errorf("vectors of %d bytes, but Bytes is %d", len(all), s.r.Bytes)
	}
	return all
}

// finish completes the request and returns the writable part and the length.
func (s *sent) finish(err error) (in []byte, written uint32) {
	s.r.Err = err
	written = s.r.Complete()
	return s.gather(s.in), written
}

// pattern is n bytes that are all different from their neighbours.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

func eachFraming(t *testing.T, do func(t *testing.T, framing string)) {
	for name := range framings {
		t.Run(name, func(t *testing.T) { do(t, name) })
		t.Run(name+onPacked, func(t *testing.T) { do(t, name+onPacked) })
	}
}
