package virtio_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/iovec"
	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
)

func TestRead(t *testing.T) {
	b := newBlk(t, plainDisk())
	eachFraming(t, func(t *testing.T, framing string) {
		s := send(t, b, framing, driver.TypeIn, 0x1122334455667788, nil, 1025)
		if !s.sub || s.r.Op != disk.OpRead || s.r.Sector != 0x1122334455667788 || s.r.Bytes != 1024 {
			t.Fatalf("decoded %+v", s.r.Request)
		}
		s.data()
		at := 0
		want := pattern(1024)
		for _, v := range s.r.Iov {
			at += copy(iovec.Bytes(v), want[at:])
		}
		in, written := s.finish(nil)
		if written != 1025 || !bytes.Equal(in, append(want, 0)) {
			t.Errorf("written %d, status %d", written, in[1024])
		}
	})
}

// A read that failed claims nothing of what lies before its status.
func TestReadFails(t *testing.T) {
	b := newBlk(t, plainDisk())
	eachFraming(t, func(t *testing.T, framing string) {
		s := send(t, b, framing, driver.TypeIn, 8, nil, 513)
		in, written := s.finish(disk.ErrIO)
		if want := append(bytes.Repeat([]byte{0xcc}, 512), driver.StatusIOErr); written != 0 || !bytes.Equal(in, want) {
			t.Errorf("written %d, status %d", written, in[512])
		}
	})
}

func TestWrite(t *testing.T) {
	b := newBlk(t, plainDisk())
	eachFraming(t, func(t *testing.T, framing string) {
		data := pattern(1024)
		s := send(t, b, framing, driver.TypeOut, 99, data, 1)
		if !s.sub || s.r.Op != disk.OpWrite || s.r.Sector != 99 || s.r.Stable || !bytes.Equal(s.data(), data) {
			t.Fatalf("decoded %+v", s.r.Request)
		}
		if in, written := s.finish(nil); written != 1 || in[0] != driver.StatusOK {
			t.Errorf("written %d, status %d", written, in[0])
		}
	})
}

// Requests whose data is on the other side, or that should have none: what is
// too much is left alone.
func TestSurplusData(t *testing.T) {
	b := newBlk(t, zonedDisk())
	for _, typ := range []uint32{driver.TypeOut, driver.TypeFlush, driver.TypeZoneOpen, driver.TypeZoneResetAll} {
		s := send(t, b, "data in unequal pieces", typ, 0, pattern(512), 100)
		if !s.sub {
			t.Fatalf("type %d is not submitted", typ)
		}
		in, written := s.finish(nil)
		if written != 0 || in[99] != driver.StatusOK || !bytes.Equal(in[:99], bytes.Repeat([]byte{0xcc}, 99)) {
			t.Errorf("type %d: written %d, %x", typ, written, in)
		}
	}
	s := send(t, b, "as Linux", driver.TypeIn, 0, pattern(512), 513)
	if s.data(); !s.sub || s.r.Bytes != 512 {
		t.Errorf("a read with readable data: %+v", s.r.Request)
	}
}

func TestFlush(t *testing.T) {
	b := newBlk(t, plainDisk())
	eachFraming(t, func(t *testing.T, framing string) {
		s := send(t, b, framing, driver.TypeFlush, 77, nil, 1)
		if !s.sub || s.r.Op != disk.OpFlush || s.r.Bytes != 0 || len(s.r.Iov) != 0 {
			t.Fatalf("decoded %+v", s.r.Request)
		}
		if in, written := s.finish(nil); written != 1 || in[0] != driver.StatusOK {
			t.Errorf("written %d, status %d", written, in[0])
		}
	})
}

// "The device ID string is a NUL-padded ASCII string up to 20 bytes long."
func TestGetID(t *testing.T) {
	for _, serial := range []string{"", "zv-1", "12345678901234567890"} {
		b, err := virtio.NewBlk(plainDisk(), virtio.BlkOptions{Queues: 1, Serial: serial})
		if err != nil {
			t.Fatal(err)
		}
		eachFraming(t, func(t *testing.T, framing string) {
			s := send(t, b, framing, driver.TypeGetID, 0, nil, 21)
			if s.sub {
				t.Fatal("submitted")
			}
			in, written := s.finish(s.r.Err)
			want := append(append([]byte(serial), make([]byte, 20-len(serial))...), driver.StatusOK)
			if written != 21 || !bytes.Equal(in, want) {
				t.Errorf("written %d, %q", written, in)
			}
		})
	}
	b := newBlk(t, plainDisk())
	for _, n := range []int{0, 19, 21, 512} {
		s := send(t, b, "as Linux", driver.TypeGetID, 0, nil, n+1)
		in, _ := s.finish(s.r.Err)
		if s.sub || in[n] != driver.StatusIOErr {
			t.Errorf("a buffer of %d bytes: status %d", n, in[n])
		}
	}
}

// The cache mode at the time of decoding decides, for whatever changes the disk.
func TestStable(t *testing.T) {
	b := newBlk(t, zonedDiskWithZeroes())
	seg := make([]byte, driver.SegmentBytes)
	driver.PutSegment(seg, 0, 8, 0)
	for _, through := range []bool{false, true, false} {
		mode := byte(1)
		if through {
			mode = 0
		}
		if err := b.WriteConfig([]byte{mode}, driver.WritebackOffset); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			typ   uint32
			out   []byte
			write bool
		}{
			{driver.TypeIn, nil, false},
			{driver.TypeFlush, nil, false},
			{driver.TypeOut, make([]byte, 4096), true},
			{driver.TypeZoneAppend, make([]byte, 4096), true},
			{driver.TypeWriteZeroes, seg, true},
			{driver.TypeZoneOpen, nil, true},
			{driver.TypeZoneFinish, nil, true},
			{driver.TypeZoneReset, nil, true},
			{driver.TypeZoneResetAll, nil, true},
		} {
			if s := send(t, b, "as Linux", c.typ, 0, c.out, 9); !s.sub || s.r.Stable != (c.write && through) {
				t.Errorf("type %d, write-through %v: submitted %v, stable %v", c.typ, through, s.sub, s.r.Stable)
			}
		}
	}
}

func zonedDiskWithErase() *fakeDisk {
	d := zonedDisk()
	d.info.MaxEraseSectors = 6144
	return d
}

func zonedDiskWithZeroes() *fakeDisk {
	d := zonedDisk()
	d.info.MaxWriteZeroesSectors = 2048
	return d
}

// Requests that make no sense end with a status where there is room for one, and
// nothing else is touched.
func TestBadRequests(t *testing.T) {
	header := func(typ uint32) []byte {
		h := make([]byte, 16)
		driver.PutHeader(h, typ, 0)
		return h
	}
	for _, c := range []struct {
		name   string
		out    []byte
		in     int
		status byte
	}{
		{"no header", nil, 1, driver.StatusIOErr},
		{"half a header", header(driver.TypeFlush)[:15], 1, driver.StatusIOErr},
		{"half a header and data", header(driver.TypeIn)[:8], 513, driver.StatusIOErr},
		{"unknown type 2", header(2), 1, driver.StatusUnsupp},
		{"unknown type 9", header(9), 100, driver.StatusUnsupp},
		{"GET_LIFETIME", header(driver.TypeGetLifetime), 7, driver.StatusUnsupp},
		{"SECURE_ERASE", append(header(driver.TypeSecureErase), make([]byte, 16)...), 1, driver.StatusUnsupp},
		{"type 17, between two of zones", header(17), 1, driver.StatusUnsupp},
		{"type 27", header(27), 1, driver.StatusUnsupp},
		{"barrier", header(1 << 31), 1, driver.StatusUnsupp},
		{"type 2^32-1", header(^uint32(0)), 1, driver.StatusUnsupp},
		{"append without room for the sector", append(header(driver.TypeZoneAppend), make([]byte, 4096)...), 8, driver.StatusZoneInvalidCmd},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBlk(t, zonedDisk())
			for _, framing := range []string{"as Linux", "one descriptor each way", "footer in single bytes"} {
				s := sendBytes(t, b, framing, c.out, c.in)
				in, written := s.finish(s.r.Err)
				if s.sub || in[c.in-1] != c.status {
					t.Errorf("%s: submitted %v, status %d", framing, s.sub, in[c.in-1])
				}
				if !bytes.Equal(in[:c.in-1], bytes.Repeat([]byte{0xcc}, c.in-1)) {
					t.Errorf("%s: more than the status was written: %x", framing, in)
				}
				if clean := c.in == 1; (written == 1) != clean || written > 1 {
					t.Errorf("%s: written %d", framing, written)
				}
			}
		})
	}
	t.Run("no status", func(t *testing.T) {
		s := sendBytes(t, newBlk(t, plainDisk()), "one descriptor each way", header(driver.TypeFlush), 0)
		if s.sub || s.r.Err == nil || s.r.Complete() != 0 {
			t.Errorf("submitted %v, %v", s.sub, s.r.Err)
		}
	})
}

// A request's fields do not show through in the next one that uses it.
func TestReuse(t *testing.T) {
	b := newBlk(t, zonedDiskWithZeroes())
	seg := make([]byte, 2*driver.SegmentBytes)
	var r virtio.BlkRequest
	r.Tag = 42
	for range 2 {
		for _, c := range []struct {
			typ  uint32
			out  []byte
			in   int
			err  error
			want string
		}{
			{driver.TypeWriteZeroes, seg, 1, nil, "00"},
			{driver.TypeZoneAppend, pattern(64), 9, nil, "887766554433221100"},
			{driver.TypeZoneAppend, pattern(64), 9, zone.ErrInvalid, "000000000000000003"},
			{driver.TypeFlush, nil, 1, disk.ErrIO, "01"},
			{driver.TypeIn, nil, 3, nil, "cccc00"},
			{driver.TypeZoneOpen, nil, 1, nil, "00"},
			{99, nil, 1, nil, "02"},
		} {
			s := send(t, b, "as Linux", c.typ, 0, c.out, c.in)
			r.Chain = s.r.Chain
			s.pushBack()
			s.pop(&r.Chain)
			if b.Decode(&r) {
				r.AppendSector = 0x1122334455667788
				r.Err = c.err
			}
			r.Complete()
			if got := fmt.Sprintf("%x", s.gather(s.in)); got != c.want {
				t.Errorf("type %d: %s, not %s", c.typ, got, c.want)
			}
			if r.Tag != 42 || (c.typ != driver.TypeWriteZeroes && len(r.Ranges) != 0) {
				t.Errorf("type %d: left over: %+v", c.typ, r.Request)
			}
		}
	}
}

// pushBack makes the chain just popped available once more.
func (s *sent) pushBack() {
	s.q.Push(s.r.Chain.Head, 0)
	s.ring.PutAvail(s.r.Chain.Head)
	s.ring.Publish()
}
