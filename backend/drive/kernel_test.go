package drive

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// A report as the kernel lays it out, on a little-endian machine, put together by
// hand from struct blk_zone_report and struct blk_zone
// (include/uapi/linux/blkzoned.h): a conventional zone of 0x100 sectors, an
// implicitly open one behind it with 0xc0 of them writable and 8 written.
const goldenReport = "0000000000000000" + "02000000" + "01000000" +
	"0000000000000000" + "0001000000000000" + "0000000000000000" + "01000000" + "00000000" + "0001000000000000" +
	"000000000000000000000000000000000000000000000000" +
	"0001000000000000" + "0001000000000000" + "0801000000000000" + "02020000" + "00000000" + "c000000000000000" +
	"000000000000000000000000000000000000000000000000"

func TestDecodeZonesGolden(t *testing.T) {
	b, err := hex.DecodeString(goldenReport)
	if err != nil || len(b) != engine.ZoneReportBytes+2*engine.ZoneBytes {
		t.Fatal(err, len(b))
	}
	swapped := binary.NativeEndian.Uint16([]byte{1, 0}) != 1
	if swapped { // the fields above are 8, 8, 8, 4, 4 and 8 bytes
		at := 0
		for _, n := range append([]int{8, 4, 4}, slices.Repeat([]int{8, 8, 8, 1, 1, 2, 4, 8, 24}, 2)...) {
			if n <= 8 {
				slices.Reverse(b[at : at+n])
			}
			at += n
		}
	}
	want := []kernelZone{
		{0, 0x100, 0x100, 0, zone.Conventional, zone.NotWP},
		{0x100, 0x100, 0xc0, 0x108, zone.SequentialWriteRequired, zone.ImpOpen},
	}
	if got, err := decodeZones(b); err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	binary.NativeEndian.PutUint32(b[12:], 0) // a kernel that tells no capacities
	want[1].capacity = 0x100
	if got, err := decodeZones(b); err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for name, tt := range map[string]struct {
		at   int
		v    byte
		want string
	}{
		"more zones than room":           {8, 3, "room for fewer"},
		"type 0":                         {16 + 24, 0, "of type 0"},
		"sequential write preferred":     {80 + 24, 3, "of type 3"},
		"condition 5":                    {80 + 25, 5, "condition 5"},
		"condition 0xfe":                 {80 + 25, 0xfe, "condition 254"},
		"conventional with a pointer":    {16 + 25, 1, "has condition empty"},
		"sequential without one":         {80 + 25, 0, "has condition not-wp"},
		"conventional, cached":           {16 + 25, 0xff, "type 1"},
		"more capacity than length":      {80 + 33, 2, "more capacity"},
		"a length that leads round":      {80 + 15, 0xff, ""},
		"a zone that ends behind it all": {80 + 7, 0xff, ""},
	} {
		bad := bytes.Clone(b)
		binary.NativeEndian.PutUint32(bad[12:], 1)
		bad[tt.at] = tt.v
		if name == "a length that leads round" {
			bad[80+7] = 0xff
			tt.want = "end nowhere"
		}
		_, err := decodeZones(bad)
		if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) && !swapped {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// What is not in a report is not read from it, and nothing that is taken over
// breaks what a table entry promises.
func FuzzDecodeZones(f *testing.F) {
	b, _ := hex.DecodeString(goldenReport)
	f.Add(b)
	f.Add(b[:16])
	f.Add(append([]byte{8: 1, 12: 1, 15: 0}, bytes.Repeat([]byte{0xff}, 64)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		zones, err := decodeZones(b)
		if err != nil {
			if len(zones) != 0 || strings.Contains(err.Error(), "\n") {
				t.Errorf("%d zones, %q", len(zones), err)
			}
			return
		}
		if len(zones)*engine.ZoneBytes > len(b) {
			t.Fatalf("%d zones from %d bytes", len(zones), len(b))
		}
		for i := range zones {
			k := &zones[i]
			w := k.entry(i)
			if !w.State().Valid() || w.Written() > k.capacity || k.capacity > k.length || k.typ == zone.Conventional && w.Written() != 0 ||
				w.State() == zone.Empty && w.Written() != 0 {
				t.Errorf("%+v has the entry %v, %d", k, w.State(), w.Written())
			}
		}
		var d Drive
		if got, err := d.cut(zones, nil); err == nil && (len(got) != len(zones) || d.size == 0) {
			t.Errorf("%d zones of %d, size %d", len(got), len(zones), d.size)
		}
		_, _ = reportZones(func(_ uint64, to []byte, _ bool) error { copy(to, b); return nil }, 1<<20, true)
	})
}

// The write pointer of a zone by its state, wherever the kernel says that it is:
// in the zone, before it, behind its capacity, nowhere.
func TestKernelZoneEntry(t *testing.T) {
	const start, capacity = 1024, 96
	for _, tt := range []struct {
		typ   zone.Type
		state zone.State
		want  [4]uint64 // wp in the zone, before it, behind its capacity, ~0
		as    zone.State
	}{
		{zone.Conventional, zone.NotWP, [4]uint64{}, zone.NotWP},
		{zone.Conventional, zone.ReadOnly, [4]uint64{}, zone.ReadOnly},
		{zone.Conventional, zone.Offline, [4]uint64{}, zone.Offline},
		{zone.SequentialWriteRequired, zone.Empty, [4]uint64{}, zone.Empty},
		{zone.SequentialWriteRequired, zone.ImpOpen, [4]uint64{8, 0, 96, 96}, zone.ImpOpen},
		{zone.SequentialWriteRequired, zone.ExpOpen, [4]uint64{8, 0, 96, 96}, zone.ExpOpen},
		{zone.SequentialWriteRequired, zone.Closed, [4]uint64{8, 0, 96, 96}, zone.Closed},
		{zone.SequentialWriteRequired, condActive, [4]uint64{8, 0, 96, 96}, zone.Closed},
		{zone.SequentialWriteRequired, condUnwritten, [4]uint64{}, zone.Empty},
		{zone.SequentialWriteRequired, zone.Full, [4]uint64{96, 96, 96, 96}, zone.Full},
		{zone.SequentialWriteRequired, zone.ReadOnly, [4]uint64{8, 0, 0, 0}, zone.ReadOnly},
		{zone.SequentialWriteRequired, zone.Offline, [4]uint64{}, zone.Offline},
	} {
		for i, wp := range []uint64{start + 8, 0, start + 100, ^uint64(0)} {
			k := kernelZone{start: start, length: 128, capacity: capacity, wp: wp, typ: tt.typ, state: tt.state}
			if w := k.entry(3); w != zone.Pack(3, tt.as, tt.want[i]) {
				t.Errorf("type %d, %v, pointer at %d: %v with %d written, want %v with %d", tt.typ, tt.state, int64(wp-start), w.State(), w.Written(), tt.as, tt.want[i])
			}
		}
	}
}

// A fakeReport answers as a kernel does for these zones, some of them at a time.
type fakeReport struct {
	zones  []kernelZone
	most   int // zones an answer has
	cached bool
	asked  []bool // whether for a cached report
}

func (f *fakeReport) ask(sector uint64, b []byte, cached bool) error {
	f.asked = append(f.asked, cached)
	if cached && !f.cached {
		return unix.ENOTTY
	}
	ne := binary.NativeEndian
	clear(b[:engine.ZoneReportBytes])
	ne.PutUint32(b[12:], 1)
	n := 0
	for i := range f.zones {
		z := &f.zones[i]
		room := (len(b) - engine.ZoneReportBytes) / engine.ZoneBytes
		if z.start+z.length <= sector || n == min(f.most, room) {
			continue
		}
		e := b[engine.ZoneReportBytes+n*engine.ZoneBytes:]
		ne.PutUint64(e, z.start)
		ne.PutUint64(e[8:], z.length)
		ne.PutUint64(e[16:], z.wp)
		ne.PutUint64(e[32:], z.capacity)
		e[24], e[25] = uint8(z.typ), uint8(z.state)
		if s := z.state; cached && s.IsActive() {
			e[25] = uint8(condActive)
		}
		n++
	}
	ne.PutUint32(b[8:], uint32(n))
	return nil
}

// All zones are read, in as many reports as it takes: from what the kernel knows
// where it shares that, and the device is asked for what this leaves open.
func TestReportZones(t *testing.T) {
	states := []zone.State{zone.Empty, zone.ImpOpen, zone.Empty, zone.Closed, zone.Full, zone.ExpOpen, zone.Empty, zone.ReadOnly, zone.Empty, zone.Empty, zone.Offline, zone.Full}
	var zones []kernelZone
	for i, s := range states {
		zones = append(zones, kernelZone{start: uint64(i) * 128, length: 128, capacity: 96, wp: uint64(i)*128 + 8, typ: zone.SequentialWriteRequired, state: s})
	}
	zones[len(zones)-1].length = 100
	const sectors = 11*128 + 100
	for _, tt := range []struct {
		most   int
		cached bool
		asked  []bool
	}{
		{100, false, []bool{true, false}},
		{100, true, []bool{true, false}},
		{7, false, []bool{true, false, false}},
		{6, true, []bool{true, false, true}},
		{2, true, []bool{true, false, true, false, true, false, true, true, true}},
	} {
		f := &fakeReport{zones: zones, most: tt.most, cached: tt.cached}
		got, err := reportZones(f.ask, sectors, true)
		for i, z := range got { // those that nobody was asked about
			if z.state == condUnwritten && tt.cached && zones[i].state == zone.Empty {
				got[i].state = zone.Empty
			}
		}
		if err != nil || !slices.Equal(got, zones) || !slices.Equal(f.asked, tt.asked) {
			t.Errorf("%d at a time, cached %v: asked %v, %v, %+v", tt.most, tt.cached, f.asked, err, got)
		}
	}
	// The device itself, where its word counts.
	f := &fakeReport{zones: zones, most: 6, cached: true}
	if got, err := reportZones(f.ask, sectors, false); err != nil || !slices.Equal(got, zones) || !slices.Equal(f.asked, []bool{false, false}) {
		t.Errorf("asked %v, %v, %+v", f.asked, err, got)
	}
	// What cannot be.
	broken := errors.New("broken")
	for want, ask := range map[string]reporter{
		"broken":         func(uint64, []byte, bool) error { return broken },
		"no zone at":     (&fakeReport{}).ask,
		"at 0 should be": (&fakeReport{zones: zones[1:], most: 100}).ask,
		"at most 100":    (&fakeReport{zones: append(slices.Clone(zones[:11]), kernelZone{11 * 128, 128, 96, 0, zone.SequentialWriteRequired, zone.Empty}), most: 5}).ask,
		"0 sectors": func(sector uint64, b []byte, cached bool) error {
			err := (&fakeReport{zones: zones[:1], most: 1, cached: true}).ask(sector, b, cached)
			clear(b[engine.ZoneReportBytes+8:][:8])
			clear(b[engine.ZoneReportBytes+32:][:8])
			return err
		},
		"and not 5": func(sector uint64, b []byte, cached bool) error {
			f := &fakeReport{zones: zones, most: 100, cached: true}
			if !cached {
				f.most = 3
			}
			return f.ask(sector, b, cached)
		},
		"room for fewer": func(_ uint64, b []byte, _ bool) error {
			binary.NativeEndian.PutUint32(b[8:], ^uint32(0))
			return nil
		},
	} {
		if _, err := reportZones(ask, sectors, true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// 65,536 zones are a matter of a few reports.
func TestReportManyZones(t *testing.T) {
	const n = 1 << 16
	zones := make([]kernelZone, n)
	for i := range zones {
		zones[i] = kernelZone{start: uint64(i) << 19, length: 1 << 19, capacity: 1 << 19, wp: uint64(i) << 19, typ: zone.SequentialWriteRequired, state: zone.Closed}
	}
	asked := 0
	got, err := reportZones(func(sector uint64, b []byte, cached bool) error {
		asked++
		first := int(sector >> 19)
		room := (len(b) - engine.ZoneReportBytes) / engine.ZoneBytes
		return (&fakeReport{zones: zones[first:min(n, first+room)], most: n, cached: true}).ask(sector, b, cached)
	}, n<<19, true)
	if err != nil || !slices.Equal(got, zones) || asked > 10 {
		t.Errorf("%d zones in %d reports, %v", len(got), asked, err)
	}
}
