package backend

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/testleak"
	"github.com/zvhost/zvhost/internal/zonemodel"
)

// fuzzGeometries are what FuzzZones chooses from.
var fuzzGeometries = []zone.Geometry{
	{CapacitySectors: 5*16 + 8, ZoneSectors: 16, ZoneCapacitySectors: 12, ConventionalZones: 1, MaxOpen: 2, MaxActive: 3, MaxAppendSectors: 5},
	{CapacitySectors: 4 * 32, ZoneSectors: 32, BlockSize: 4096, MaxOpen: 1},
	{CapacitySectors: 3*64 + 1, ZoneSectors: 64, MaxActive: 1},
}

// FuzzZones reads its input as requests, four bytes each, and as restarts, kills
// and power cuts, and holds the disk against the model after every one.
func FuzzZones(f *testing.F) {
	f.Add([]byte{0})
	f.Add([]byte("\x00" + "\x01\x11\x04\x00" + "\x05\x10\x04\x00" + "\x09\x10\x00\x00" + "\x02\x00\x00\x00" + "\x0d\x00\x00\x00"))
	f.Add([]byte("\x01" + "\x01\x00\x08\x00" + "\x0a\x00\x00\x00" + "\x0c\x00\x00\x00" + "\x01\x10\x08\x00" + "\x0e\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 || len(in) > 1+4*100 {
			return
		}
		wantNoLeaks(t)
		g := fuzzGeometries[int(in[0])%len(fuzzGeometries)]
		s := newScript(t, disktest.FastDir(t), g)
		for in = in[1:]; len(in) >= 4 && !t.Failed(); in = in[4:] {
			s.step(in[0], in[1], in[2], in[3])
		}
		s.end()
	})
}

// wantNoLeaks looks, when all else of the test is cleaned up, whether it left a
// descriptor or a mapping behind.
func wantNoLeaks(t *testing.T) {
	before := testleak.Take()
	t.Cleanup(func() {
		if leaks := before.WaitFiles(); len(leaks) > 0 {
			t.Error(leaks)
		}
	})
}

// step is one step of a script from four bytes: what to do; where, as a zone
// number and as sectors from its start; how much; and how.
func (s *script) step(what, where, sectors, how byte) {
	s.t.Helper()
	zn := int(where>>4) % len(s.m.Zones)
	z := &s.m.Zones[zn]
	sector := z.Start + uint64(where&15)
	bytes := uint64(sectors)*disk.SectorSize + uint64(how>>6) // rarely odd
	stable, lane := how&1 != 0, int(how>>1&3)
	switch op := disk.Op(what % 16); op {
	case disk.OpSecureErase: // TestErase
		s.one(lane, disk.OpReset, z.Start, 0, stable)
	case disk.OpWrite:
		if how&8 == 0 && z.State != zonemodel.NotWP {
			sector = z.WP
		}
		s.one(lane, op, sector, bytes, stable)
	case disk.OpRead, disk.OpAppend:
		s.one(lane, op, sector&^15, bytes, stable)
	case disk.OpFlush, disk.OpOpen, disk.OpClose, disk.OpFinish, disk.OpReset, disk.OpResetAll:
		s.one(lane, op, sector, 0, stable)
	case 12:
		s.restart()
	case 13:
		s.kill()
	case 14:
		s.cut()
	case 15:
		sizes := make([]uint64, 1+how&7)
		for i := range sizes {
			sizes[i] = (1 + (uint64(sectors)+uint64(i))%4) * uint64(s.m.Geom.BlockSize)
		}
		s.batch(zn, sizes)
	default:
		s.one(lane, op, sector, bytes, stable)
	}
}

// FuzzImageOpen scribbles over the header and the tables of an image. Whatever
// stands there: no panic, no leak, and either a refusal or a disk that works and
// can be opened again.
func FuzzImageOpen(f *testing.F) {
	header := fuzzImage(f)
	// how to mend, then patches: region, two bytes of offset, length, bytes
	f.Add([]byte{0})
	f.Add([]byte{0xff})
	for region := range byte(len(fuzzRegions)) {
		f.Add([]byte{0x00, region, 20, 0, 4, 1, 2, 3, 4})
		f.Add([]byte{0xff, region, 48, 0, 8, 255, 255, 255, 255, 255, 255, 255, 127})
	}
	f.Add([]byte{0xff, 4, 0, 0, 8, 8, 0, 0, 0, 0, 64, 0, 0, 4, 8, 0, 8, 8, 0, 0, 0, 0, 64, 0, 0}) // two zones closed, 8 sectors written
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 {
			return
		}
		wantNoLeaks(t)
		path := filepath.Join(disktest.FastDir(t), "disk.zvh")
		if err := os.WriteFile(path, header, 0o600); err != nil {
			t.Fatal(err)
		}
		scribble(t, path, in)

		_, checkErr := image.Check(path)
		_, _ = ReadReport(path)
		if d, err := Open(path, disk.Options{ReadOnly: true}); err == nil {
			exercise(t, d)
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
		if len(in) > 1 { // as damaged as before, in a copy
			wantRepair(t, path, image.RepairMode(in[1]%3))
		}
		d, err := Open(path, disk.Options{})
		if err == nil {
			if checkErr != nil && d.Info().Zoned != nil {
				t.Errorf("it opens, but cannot be checked: %v", checkErr)
			}
			exercise(t, d)
			if err := d.Close(); err != nil {
				t.Error(err)
			}
			wantReopen(t, d, path)
		}
	})
}

// wantRepair repairs a copy of what stands at path. What could be opened before can be
// opened then, and shows the same zones.
func wantRepair(t *testing.T, path string, mode image.RepairMode) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copied := path + ".copy"
	if err := os.WriteFile(copied, b, 0o600); err != nil {
		t.Fatal(err)
	}
	// Read as a copy, for it stands in another place.
	before, berr := ReadReport(copied)
	if _, err := image.Repair(copied, mode); err != nil || berr != nil {
		return
	}
	after, err := ReadReport(copied)
	if err != nil || !slices.Equal(before.Zones, after.Zones) {
		t.Errorf("repaired %v: %v; zones were %+v, and are %+v", mode, err, before.Zones, after.Zones)
	}
}

// wantReopen opens a disk that was just closed, and compares.
func wantReopen(t *testing.T, was disk.Disk, path string) {
	t.Helper()
	d, err := Open(path, disk.Options{})
	if err != nil {
		t.Fatalf("closed cleanly, and cannot be opened: %v", err)
	}
	if was.Info().Zoned != nil {
		wantReport(t, path, true, zonesOf(was))
		wantReport(t, path, true, zonesOf(d))
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// exercise sends requests to a disk of which nothing is known. It may refuse
// them; what it takes has to be there.
func exercise(t *testing.T, d disk.Disk) {
	t.Helper()
	c := disktest.NewClient(t, d)
	info := d.Info()
	c.Read(0, int(info.LogicalBlockSize))
	if info.Zoned == nil {
		return
	}
	n := int(info.Zoned.WriteGranularity)
	for i := range min(info.Zoned.Zones, 20) {
		z := d.ReportZone(i)
		if z.Start != uint64(i)*info.Zoned.ZoneSectors || z.Length == 0 || z.Capacity > z.Length || z.WP < z.Start || z.WP > z.Start+z.Length || !z.State.Valid() {
			t.Fatalf("zone %d is %+v", i, z)
		}
		if z.State != zone.Offline {
			c.Read(z.Start, n)
		}
		for _, op := range []disk.Op{disk.OpOpen, disk.OpClose} {
			_ = c.ZoneOp(op, z.Start)
		}
		if at, err := c.Append(z.Start, disktest.Pattern('f', n)); err == nil && c.Read(at, n)[0] != 'f' {
			t.Errorf("zone %d: what was appended is not there", i)
		}
	}
	_ = c.Flush()
	_ = c.ZoneOp(disk.OpFinish, uint64(info.Zoned.Zones-1)*info.Zoned.ZoneSectors)
	_ = c.ZoneOp(disk.OpResetAll, 0)
	_ = c.Write(uint64(info.Zoned.Zones-1)*info.Zoned.ZoneSectors, disktest.Pattern('f', n))
}

// fuzzRegions are the parts of the header that are worth scribbling over:
// superblock and copy, state blocks, live table, both copies of the committed
// one, and all of it.
var fuzzRegions = []int64{format.SuperOff, format.SuperCopyOff, format.StateOff, format.StateOff + format.BlockBytes, format.LiveOff, -1, -2, 0}

var fuzzGeometry = zone.Geometry{CapacitySectors: 8 * 16, ZoneSectors: 16, ConventionalZones: 1, MaxOpen: 2, MaxActive: 3}

// fuzzImage is a small image that was left in use with data in it.
func fuzzImage(t testing.TB) []byte {
	t.Helper()
	path := imagetest.New(t, fuzzGeometry)
	d, fs := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(16, disktest.Pattern('a', 4096)), nil)
	c.WantError(c.Write(32, disktest.Pattern('b', 8192)), nil)
	c.WantError(c.Flush(), nil)
	c.WantError(c.Write(48, disktest.Pattern('c', 512)), nil)
	kill(t, d, fs)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// scribble applies the patches in in to the image at path, and mends as much of
// it as the first byte says, so that not every change ends at a checksum.
func scribble(t *testing.T, path string, in []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l := format.NewLayout(fuzzGeometry)
	if err := l.Complete(); err != nil {
		t.Fatal(err)
	}
	l = format.NewLayout(l.Geometry)
	at := func(region byte) int64 {
		switch r := fuzzRegions[int(region)%len(fuzzRegions)]; r {
		case -1:
			return l.TableOff
		case -2:
			return l.TableOff + format.BlockBytes
		default:
			return r
		}
	}
	mend := in[0]
	for in = in[1:]; len(in) >= 5; {
		n := min(int(in[3]), len(in)-4)
		off := at(in[0]) + int64(binary.LittleEndian.Uint16(in[1:]))
		if in[0]%8 < 7 {
			off = at(in[0]) + int64(binary.LittleEndian.Uint16(in[1:])%format.BlockBytes)
		}
		imagetest.Patch(t, f, in[4:4+n], off)
		in = in[4+n:]
	}
	block := func(off int64, change func(b []byte)) {
		b := make([]byte, format.BlockBytes)
		if _, err := f.ReadAt(b, off); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		change(b)
		imagetest.Patch(t, f, b, off)
	}
	checkWords := func(b []byte, zones int) {
		for i := range zones {
			w := binary.LittleEndian.Uint64(b[8*i:])
			binary.LittleEndian.PutUint64(b[8*i:], uint64(zone.Pack(i, zone.Entry(w).State(), zone.Entry(w).Written())))
		}
	}
	if mend&1 != 0 {
		block(format.LiveOff, func(b []byte) { checkWords(b, l.Zones()) })
	}
	for i := range int64(2) {
		if mend&2 != 0 {
			block(l.TableOff+i*format.BlockBytes, func(b []byte) {
				checkWords(b[format.BlockHeader:], l.Zones())
				binary.LittleEndian.PutUint32(b[4:], format.Checksum(b, 4))
			})
		}
		if mend&4 != 0 {
			block(format.StateOff+i*format.BlockBytes, func(b []byte) { binary.LittleEndian.PutUint32(b[16:], format.Checksum(b, 16)) })
		}
		if mend&8 != 0 {
			block([]int64{format.SuperOff, format.SuperCopyOff}[i], func(b []byte) { binary.LittleEndian.PutUint32(b[12:], format.Checksum(b, 12)) })
		}
		if mend&16 != 0 { // as found by the kernel that left it
			here, err := format.PlaceOf(f)
			if err != nil {
				t.Fatal(err)
			}
			block(format.StateOff+i*format.BlockBytes, func(b []byte) {
				copy(b[40:], here.Boot[:])
				binary.LittleEndian.PutUint64(b[56:], here.Device)
				binary.LittleEndian.PutUint64(b[64:], here.Inode)
				binary.LittleEndian.PutUint32(b[16:], format.Checksum(b, 16))
			})
		}
	}
}
