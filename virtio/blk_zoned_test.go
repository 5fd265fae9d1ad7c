package virtio_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
)

// "struct virtio_blk_req_za": data, then append_sector, then status.
func TestAppend(t *testing.T) {
	b := newBlk(t, zonedDisk())
	eachFraming(t, func(t *testing.T, framing string) {
		data := pattern(4096)
		s := send(t, b, framing, driver.TypeZoneAppend, 2048, data, 9)
		if !s.sub || s.r.Op != disk.OpAppend || s.r.Sector != 2048 || !bytes.Equal(s.data(), data) {
			t.Fatalf("decoded %+v", s.r.Request)
		}
		s.r.AppendSector = 0x0102030405060708
		in, written := s.finish(nil)
		if want := []byte{8, 7, 6, 5, 4, 3, 2, 1, driver.StatusOK}; written != 9 || !bytes.Equal(in, want) {
			t.Errorf("written %d, %x", written, in)
		}
		// "The value of append_sector is undefined" otherwise. Linux takes it for the
		// request's sector all the same and prints it with the error, so it is what
		// was asked for.
		s = send(t, b, framing, driver.TypeZoneAppend, 2048, data, 9)
		in, written = s.finish(zone.ErrActiveLimit)
		if want := []byte{0, 8, 0, 0, 0, 0, 0, 0, driver.StatusZoneActiveResource}; written != 9 || !bytes.Equal(in, want) {
			t.Errorf("failed: written %d, %x", written, in)
		}
	})
}

// Linux has padding between append_sector and status, and any more of it is as
// good.
func TestAppendPadded(t *testing.T) {
	b := newBlk(t, zonedDisk())
	eachFraming(t, func(t *testing.T, framing string) {
		for _, n := range []int{10, 16, 700} {
			s := send(t, b, framing, driver.TypeZoneAppend, 2048, pattern(4096), n)
			s.r.AppendSector = 0x1122334455667788
			in, written := s.finish(nil)
			want := append([]byte{0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11}, bytes.Repeat([]byte{0xcc}, n-9)...)
			if want = append(want, driver.StatusOK); written != 8 || !bytes.Equal(in, want) {
				t.Errorf("%d bytes: written %d, %x", n, written, in)
			}
		}
	})
}

func TestZoneManagement(t *testing.T) {
	b := newBlk(t, zonedDisk())
	for typ, want := range map[uint32]struct {
		op     disk.Op
		sector uint64
	}{
		driver.TypeZoneOpen:     {disk.OpOpen, 4096},
		driver.TypeZoneClose:    {disk.OpClose, 4096},
		driver.TypeZoneFinish:   {disk.OpFinish, 4096},
		driver.TypeZoneReset:    {disk.OpReset, 4096},
		driver.TypeZoneResetAll: {disk.OpResetAll, 0},
	} {
		s := send(t, b, "as Linux", typ, 4096, nil, 1)
		if !s.sub || s.r.Op != want.op || s.r.Sector != want.sector || s.r.Bytes != 0 {
			t.Errorf("type %d: submitted %v, %+v", typ, s.sub, s.r.Request)
		}
		if in, written := s.finish(zone.ErrOpenLimit); in[0] != driver.StatusZoneOpenResource || written != 1 {
			t.Errorf("type %d: status %d, written %d", typ, in[0], written)
		}
	}
}

// "struct virtio_blk_zone_report", byte for byte.
func TestReportGolden(t *testing.T) {
	const want = `
		0200000000000000 0000000000000000 0000000000000000 0000000000000000
		0000000000000000 0000000000000000 0000000000000000 0000000000000000
		0006000000000000 0010000000000000 0810000000000000 02 02 000000000000
		0000000000000000 0000000000000000 0000000000000000 0000000000000000
		0006000000000000 0018000000000000 0020000000000000 02 0e 000000000000
		0000000000000000 0000000000000000 0000000000000000 0000000000000000
		`
	golden, err := hex.DecodeString(strings.Join(strings.Fields(want), ""))
	if err != nil || len(golden) != 3*64 {
		t.Fatal(len(golden), err)
	}
	b := newBlk(t, zonedDisk())
	eachFraming(t, func(t *testing.T, framing string) {
		s := send(t, b, framing, driver.TypeZoneReport, 4096+17, nil, 3*64+1)
		in, written := s.finish(s.r.Err)
		if s.sub || written != 3*64+1 || in[3*64] != driver.StatusOK {
			t.Fatalf("submitted %v, written %d, status %d", s.sub, written, in[3*64])
		}
		if diff := cmp.Diff(hex.Dump(golden), hex.Dump(in[:3*64])); diff != "" {
			t.Error(diff)
		}
	})
}

// As many zones as fit whole, from the zone that holds the sector.
func TestReportSizes(t *testing.T) {
	d := zonedDisk()
	b := newBlk(t, d)
	for _, c := range []struct {
		sector uint64
		buf    int // bytes before the status
		first  int
		zones  int // -1: ZONE_INVALID_CMD
	}{
		{0, 64, 0, 0},
		{0, 127, 0, 0},
		{0, 128, 0, 1},
		{0, 191, 0, 1},
		{0, 64 * 6, 0, 5},
		{0, 64 * 100, 0, 5},
		{2047, 64 * 6, 0, 5},
		{2048, 64 * 6, 1, 4},
		{8191, 64 * 6, 3, 2},
		{8192, 64 * 6, 4, 1},
		{9215, 64 * 6, 4, 1}, // the last sector, in the smaller last zone
		{9216, 64 * 6, 0, -1},
		{^uint64(0), 64 * 6, 0, -1},
		{0, 63, 0, -1},
		{0, 0, 0, -1},
	} {
		s := send(t, b, "data in unequal pieces", driver.TypeZoneReport, c.sector, nil, c.buf+1)
		in, written := s.finish(s.r.Err)
		if c.zones < 0 {
			if in[c.buf] != driver.StatusZoneInvalidCmd || !bytes.Equal(in[:c.buf], bytes.Repeat([]byte{0xcc}, c.buf)) {
				t.Errorf("sector %d, %d bytes: status %d", c.sector, c.buf, in[c.buf])
			}
			continue
		}
		got, err := driver.ParseReport(nil, in[:c.buf])
		if err != nil || in[c.buf] != driver.StatusOK {
			t.Errorf("sector %d, %d bytes: status %d, %v", c.sector, c.buf, in[c.buf], err)
			continue
		}
		var want []driver.Zone
		for _, z := range d.zones[c.first : c.first+c.zones] {
			want = append(want, driver.Zone{Capacity: z.Capacity, Start: z.Start, WP: z.WP, Type: uint8(z.Type), State: uint8(z.State)})
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("sector %d, %d bytes: %s", c.sector, c.buf, diff)
		}
		filled := 64 + 64*c.zones
		if !bytes.Equal(in[filled:c.buf], bytes.Repeat([]byte{0xcc}, c.buf-filled)) {
			t.Errorf("sector %d, %d bytes: written behind the report", c.sector, c.buf)
		}
		if filled == c.buf {
			filled++ // and the status
		}
		if int(written) != filled {
			t.Errorf("sector %d, %d bytes: written %d, not %d", c.sector, c.buf, written, filled)
		}
	}
}

// "If the VIRTIO_BLK_F_ZONED feature is not negotiated, the device MUST reject"
// all requests of zones "with VIRTIO_BLK_S_UNSUPP status" - on an ordinary disk,
// and on a zoned one whose front-end goes on after it was refused, which gets no
// I/O at all, whatever a driver before it had negotiated: a guest that reboots
// without a reset of the device comes with its firmware's features.
func TestZonedNotNegotiated(t *testing.T) {
	zoned, err := virtio.NewBlk(zonedDisk(), virtio.BlkOptions{Queues: 1})
	if err != nil {
		t.Fatal(err)
	}
	if zoned.SetFeatures(zoned.Features()&^driver.BlkZoned) == nil {
		t.Fatal("accepted without ZONED")
	}
	reset := newBlk(t, zonedDisk())
	reset.Reset()
	later := newBlk(t, zonedDisk())
	if later.SetFeatures(driver.FeatureVersion1) == nil {
		t.Fatal("accepted without ZONED, after a driver with it")
	}
	for name, b := range map[string]*virtio.Blk{"ordinary": newBlk(t, plainDisk()), "zoned, refused": zoned, "zoned, reset": reset, "zoned, refused later": later} {
		for _, typ := range []uint32{driver.TypeZoneAppend, driver.TypeZoneReport, driver.TypeZoneOpen, driver.TypeZoneClose,
			driver.TypeZoneFinish, driver.TypeZoneReset, driver.TypeZoneResetAll} {
			for _, n := range []int{1, 9, 1000} {
				s := send(t, b, "one descriptor each way", typ, 0, nil, n)
				in, _ := s.finish(s.r.Err)
				if s.sub || in[n-1] != driver.StatusUnsupp || !bytes.Equal(in[:n-1], bytes.Repeat([]byte{0xcc}, n-1)) {
					t.Errorf("%s: type %d: submitted %v, status %d", name, typ, s.sub, in[n-1])
				}
			}
		}
		for _, typ := range []uint32{driver.TypeIn, driver.TypeOut, driver.TypeFlush, driver.TypeDiscard, driver.TypeWriteZeroes} {
			s := send(t, b, "as Linux", typ, 0, make([]byte, 16), 513)
			in, _ := s.finish(s.r.Err)
			if name != "ordinary" && (s.sub || in[512] != driver.StatusIOErr) {
				t.Errorf("%s: type %d: submitted %v, status %d", name, typ, s.sub, in[512])
			}
			if name == "ordinary" && !s.sub {
				t.Errorf("%s: type %d: %v", name, typ, s.r.Err)
			}
		}
	}
}

// The other side's reader of reports refuses what Linux would trip over.
func TestParseReportRefuses(t *testing.T) {
	good := make([]byte, 128)
	good[0] = 1
	if z, err := driver.ParseReport(nil, good); err != nil || len(z) != 1 {
		t.Fatal(z, err)
	}
	for name, edit := range map[string]func(b []byte) []byte{
		"short":               func(b []byte) []byte { return b[:63] },
		"too many zones":      func(b []byte) []byte { b[0] = 2; return b },
		"2^63 zones":          func(b []byte) []byte { b[7] = 0x80; return b },
		"reserved header":     func(b []byte) []byte { b[63] = 1; return b },
		"reserved descriptor": func(b []byte) []byte { b[64+26] = 1; return b },
	} {
		if _, err := driver.ParseReport(nil, edit(bytes.Clone(good))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Where zones change by themselves a report goes to the disk first, for the zones
// that it is about; what it then says is written when that has ended. One that is
// wrong, or about no zone, does not go there.
func TestReportOfZonesThatMove(t *testing.T) {
	for _, c := range []struct {
		sector uint64
		room   int // for zones
		submit bool
		first  int
		zones  int
		status byte
	}{
		{0, 5, true, 0, 5, driver.StatusOK},
		{0, 100, true, 0, 5, driver.StatusOK},
		{2048 + 17, 2, true, 1, 2, driver.StatusOK},
		{9215, 3, true, 4, 1, driver.StatusOK},
		{4096, 0, false, 2, 0, driver.StatusOK},
		{9216, 3, false, 0, 0, driver.StatusZoneInvalidCmd},
		{4096, 3, true, 2, 3, driver.StatusIOErr},
	} {
		d := zonedDisk()
		d.info.Zoned.Moves = true
		s := send(t, newBlk(t, d), "data in unequal pieces", driver.TypeZoneReport, c.sector, nil, 64+c.room*64+1)
		if s.sub != c.submit {
			t.Fatalf("sector %d: submitted %v", c.sector, s.sub)
		}
		err := s.r.Err
		if c.submit {
			if s.r.Op != disk.OpReport || s.r.Sector != uint64(c.first)*2048 || s.r.Bytes != uint64(c.zones) || s.r.Stable || len(s.r.Iov) != 0 {
				t.Errorf("sector %d: decoded %+v", c.sector, s.r.Request)
			}
			d.zones[c.first].State = zone.Closed // as the disk finds
			if c.status == driver.StatusIOErr {
				err = disk.ErrIO
			}
		}
		in, written := s.finish(err)
		status := in[len(in)-1]
		if status != c.status {
			t.Errorf("sector %d: status %d", c.sector, status)
		}
		if status != driver.StatusOK {
			if !bytes.Equal(in[:len(in)-1], bytes.Repeat([]byte{0xcc}, len(in)-1)) {
				t.Errorf("sector %d: a report that failed is there", c.sector)
			}
			continue
		}
		got, err := driver.ParseReport(nil, in[:len(in)-1])
		if err != nil || len(got) != c.zones || uint64(written) < 64+64*uint64(c.zones) {
			t.Fatalf("sector %d: %d zones, %d bytes, %v", c.sector, len(got), written, err)
		}
		if c.zones > 0 && (got[0].Start != uint64(c.first)*2048 || got[0].State != uint8(zone.Closed)) {
			t.Errorf("sector %d: the first zone is %+v", c.sector, got[0])
		}
	}
}
