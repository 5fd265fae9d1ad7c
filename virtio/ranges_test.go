package virtio_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
)

// "VIRTIO_BLK_T_DISCARD", "VIRTIO_BLK_T_WRITE_ZEROES": segments and flags.
func TestRanges(t *testing.T) {
	type seg struct {
		sector         uint64
		sectors, flags uint32
	}
	many := make([]seg, 33)
	for i := range many {
		many[i] = seg{uint64(i), 1, 0}
	}
	const tooLong = 1<<20 + 1
	for _, c := range []struct {
		name  string
		segs  []seg
		extra int // bytes of data behind the segments
		// What DISCARD and WRITE_ZEROES make of it: submitted, or a status.
		discard, zeroes byte
	}{
		{"one", []seg{{1 << 40, 8, 0}}, 0, 0, 0},
		{"one, unmap: unknown to discard", []seg{{8, 8, 1}}, 0, 2, 0},
		{"no sectors", []seg{{8, 0, 0}}, 0, 0, 0},
		{"as many as there may be", many[:32], 0, 0, 0},
		{"one too many", many, 0, 1, 1},
		{"none", nil, 0, 1, 1},
		{"half a segment", nil, 8, 1, 1},
		{"a byte too much", []seg{{8, 8, 0}}, 1, 1, 1},
		{"unknown flag", []seg{{8, 8, 2}}, 0, 2, 2},
		{"unknown flag in the last one", []seg{{8, 8, 0}, {8, 8, 0x8000_0001}}, 0, 2, 2},
		{"too long", []seg{{8, tooLong, 0}}, 0, 1, 1},
		{"too long, and an unknown flag", []seg{{8, tooLong, 0}, {8, 8, 4}}, 0, 2, 2},
		{"longest", []seg{{0, ^uint32(0), 0}}, 0, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var data []byte
			var want []disk.Range
			for _, s := range c.segs {
				b := make([]byte, driver.SegmentBytes)
				driver.PutSegment(b, s.sector, s.sectors, s.flags)
				data = append(data, b...)
				want = append(want, disk.Range{Sector: s.sector, Sectors: s.sectors, Unmap: s.flags == 1})
			}
			data = append(data, make([]byte, c.extra)...)
			b := newBlk(t, plainDisk())
			for _, op := range []struct {
				typ    uint32
				op     disk.Op
				status byte
			}{{driver.TypeDiscard, disk.OpDiscard, c.discard}, {driver.TypeWriteZeroes, disk.OpWriteZeroes, c.zeroes}} {
				for _, framing := range []string{"as Linux", "header with data", "header split"} {
					s := send(t, b, framing, op.typ, 0, data, 1)
					if s.sub != (op.status == 0) {
						t.Fatalf("%s, %s: submitted %v: %v", op.op, framing, s.sub, s.r.Err)
					}
					if s.sub {
						if s.r.Op != op.op || s.r.Bytes != 0 {
							t.Errorf("%s: decoded %+v", op.op, s.r.Request)
						}
						if diff := cmp.Diff(want, s.r.Ranges); diff != "" {
							t.Errorf("%s: %s", op.op, diff)
						}
					}
					if in, written := s.finish(s.r.Err); in[0] != op.status || written != 1 {
						t.Errorf("%s, %s: status %d, written %d", op.op, framing, in[0], written)
					}
				}
			}
		})
	}
}

// DISCARD and WRITE_ZEROES that were not negotiated are unknown.
func TestRangesNotNegotiated(t *testing.T) {
	b := newBlk(t, plainDisk())
	if err := b.SetFeatures(driver.FeatureVersion1); err != nil {
		t.Fatal(err)
	}
	for _, typ := range []uint32{driver.TypeDiscard, driver.TypeWriteZeroes} {
		s := send(t, b, "as Linux", typ, 0, make([]byte, 16), 1)
		if in, _ := s.finish(s.r.Err); s.sub || in[0] != driver.StatusUnsupp {
			t.Errorf("type %d: status %d", typ, in[0])
		}
	}
}

// "VIRTIO_BLK_T_SECURE_ERASE" of a zoned disk: segments and flags. Where they may
// begin and end is the disk's to say.
func TestEraseRanges(t *testing.T) {
	b := newBlk(t, zonedDiskWithErase())
	for _, c := range []struct {
		name           string
		sectors, flags uint32
		n              int
		status         byte
	}{
		{"one", 2048, 0, 1, 0},
		{"unmap is a known flag", 2048, 1, 1, 0},
		{"as many as there may be", 2048, 0, 32, 0},
		{"one too many", 2048, 0, 33, driver.StatusIOErr},
		{"none", 2048, 0, 0, driver.StatusIOErr},
		{"unknown flag", 2048, 2, 1, driver.StatusUnsupp},
		{"too long", 6145, 0, 1, driver.StatusIOErr},
	} {
		var data []byte
		var want []disk.Range
		for range c.n {
			seg := make([]byte, driver.SegmentBytes)
			driver.PutSegment(seg, 4096, c.sectors, c.flags)
			data = append(data, seg...)
			want = append(want, disk.Range{Sector: 4096, Sectors: c.sectors, Unmap: c.flags == 1})
		}
		s := send(t, b, "as Linux", driver.TypeSecureErase, 0, data, 1)
		if s.sub != (c.status == 0) {
			t.Fatalf("%s: submitted %v: %v", c.name, s.sub, s.r.Err)
		}
		if s.sub && (s.r.Op != disk.OpSecureErase || !cmp.Equal(want, s.r.Ranges)) {
			t.Errorf("%s: decoded %+v", c.name, s.r.Request)
		}
		if in, written := s.finish(s.r.Err); in[0] != c.status || written != 1 {
			t.Errorf("%s: status %d, written %d", c.name, in[0], written)
		}
	}
}

// Linux sends the segments of a SECURE_ERASE where the device writes, for the
// type's lowest bit is clear.
func TestEraseAsLinux(t *testing.T) {
	b := newBlk(t, zonedDiskWithErase())
	for _, c := range []struct {
		name     string
		segments int
		extra    int // bytes behind them
		submit   bool
	}{{"one", 1, 0, true}, {"two", 2, 0, true}, {"none", 0, 0, false}, {"a byte too much", 1, 1, false}} {
		s := &sent{rig: newRig(t, 32, allRing, 0), r: new(virtio.BlkRequest)}
		header := make([]byte, driver.HeaderBytes)
		driver.PutHeader(header, driver.TypeSecureErase, 0)
		in := make([]byte, c.segments*driver.SegmentBytes+c.extra+1)
		var want []disk.Range
		for i := range c.segments {
			driver.PutSegment(in[i*driver.SegmentBytes:], uint64(i)*4096, 2048, 0)
			want = append(want, disk.Range{Sector: uint64(i) * 4096, Sectors: 2048})
		}
		before := bytes.Clone(in)
		s.in = s.split(in, len(in)-1, 1)
		if len(in) == 1 {
			s.in = s.split(in, 1)
		}
		if _, err := s.ring.Add(s.split(header, len(header)), s.in, 0); err != nil {
			t.Fatal(err)
		}
		s.ring.Publish()
		s.pop(&s.r.Chain)
		if sub := b.Decode(s.r); sub != c.submit {
			t.Fatalf("%s: submitted %v: %v", c.name, sub, s.r.Err)
		}
		if c.submit && (s.r.Op != disk.OpSecureErase || !cmp.Equal(want, s.r.Ranges)) {
			t.Errorf("%s: decoded %+v", c.name, s.r.Request)
		}
		got, written := s.finish(s.r.Err)
		if n := len(in) - 1; !bytes.Equal(got[:n], before[:n]) || n > 0 && written != 0 {
			t.Errorf("%s: the segments were written over, or said to be: %d", c.name, written)
		}
		if status := got[len(got)-1]; (status == driver.StatusOK) != c.submit {
			t.Errorf("%s: status %d", c.name, status)
		}
	}
}
