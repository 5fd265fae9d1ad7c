package backend

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// killedImage is an image that a daemon left in use: 4 KiB of zones 2 and 3 were flushed,
// and 4 KiB behind that were not.
func killedImage(t *testing.T) (path string, data []byte) {
	t.Helper()
	path, data = imagetest.New(t, disktest.Small), disktest.Pattern('a', 8192)
	d, fs := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	for _, zn := range []uint64{2, 3} {
		c.WantError(c.Write(zn*128, data[:4096]), nil)
	}
	c.WantError(c.Flush(), nil)
	for _, zn := range []uint64{2, 3} {
		c.WantError(c.Write(zn*128+8, data[4096:]), nil)
	}
	kill(t, d, fs)
	return path, data
}

// repair repairs the image in a mode that does something, and returns what was said of it.
func repair(t *testing.T, path string, mode image.RepairMode) string {
	t.Helper()
	mended, err := image.Repair(path, mode)
	if err != nil || len(mended) == 0 {
		t.Fatalf("%v: mended %q, %v", mode, mended, err)
	}
	imagetest.WantClean(t, path)
	if again, err := image.Repair(path, mode); err != nil || len(again) > 0 {
		t.Errorf("%v: mended again: %q, %v", mode, again, err)
	}
	return mended[0].String()
}

// One damaged entry of a live table that stands nowhere else: nothing is guessed, the
// error of Open names the ways out, and each concerns that one zone alone.
func TestDamagedEntryOfOneZone(t *testing.T) {
	damage := func(zn int) (path string, data []byte) {
		path, data = killedImage(t)
		imagetest.Edit(t, path, func(f *os.File, _ *format.Layout) { imagetest.SetLive(t, f, zn, 0x1234) })
		before := imagetest.Contents(t, path)
		if mended, err := image.Repair(path, image.RepairSafe); err != nil || len(mended) > 0 || !bytes.Equal(imagetest.Contents(t, path), before) {
			t.Fatalf("mended %q, %v", mended, err)
		}
		findings, err := image.Check(path)
		if err != nil || len(findings) != 1 || !strings.Contains(findings[0].Remedy, "--repair=zone-offline") {
			t.Errorf("found %+v, %v", findings, err)
		}
		if _, err := Open(path, disk.Options{}); err == nil || !strings.Contains(err.Error(), "'zvhost check --repair=zone-offline'") || !strings.Contains(err.Error(), "'--repair=zone-committed'") {
			t.Errorf("open: %v", err)
		}
		return path, data
	}
	other := func(c *disktest.Client, data []byte) { // is as guests were told
		t.Helper()
		c.WantZone(3, zone.ImpOpen, 16)
		if !bytes.Equal(c.Read(3*128, 8192), data) {
			t.Error("another zone's data has changed")
		}
	}

	path, data := damage(2)
	if said := repair(t, path, image.RepairZoneOffline); !strings.Contains(said, "zone 2: taken offline: what it holds, 16 sectors, stays") {
		t.Errorf("said %q", said)
	}
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	c.WantZone(2, zone.Offline, 0)
	other(c, data)
	if err := SetZoneStates(d, []int{2}, ToWritable); err != nil {
		t.Fatal(err)
	}
	c.WantZone(2, zone.Closed, 16)
	if !bytes.Equal(c.Read(2*128, 8192), data) {
		t.Error("its data has changed")
	}
	imagetest.CloseDisk(t, d, path)

	path, data = damage(2)
	if said := repair(t, path, image.RepairZoneCommitted); !strings.Contains(said, "zone 2: closed with 8 sectors written, as the last flush left it") {
		t.Errorf("said %q", said)
	}
	d = openDisk(t, path)
	c = disktest.NewClient(t, d)
	c.WantZone(2, zone.Closed, 8)
	if !bytes.Equal(c.Read(2*128, 8192), append(slices.Clone(data[:4096]), make([]byte, 4096)...)) {
		t.Error("other data than was flushed")
	}
	other(c, data)
	imagetest.CloseDisk(t, d, path)

	for mode, want := range map[image.RepairMode]zone.State{image.RepairZoneOffline: zone.Offline, image.RepairZoneCommitted: zone.NotWP} {
		path, data = damage(1) // conventional
		repair(t, path, mode)
		d = openDisk(t, path)
		if z := d.ReportZone(1); z.State != want || z.Type != zone.Conventional {
			t.Errorf("%v: %+v", mode, z)
		}
		other(disktest.NewClient(t, d), data)
		imagetest.CloseDisk(t, d, path)
	}
}

// What was committed may be one active zone too many by now: then it is said, and the zone
// can be taken offline.
func TestDamagedEntryThatWasActive(t *testing.T) {
	path, _ := killedImage(t)
	imagetest.Edit(t, path, func(f *os.File, l *format.Layout) {
		imagetest.SetLive(t, f, 2, 0x1234)
		imagetest.SetLive(t, f, 3, zone.Pack(3, zone.Full, l.Capacity(3)))
		for i := range int(disktest.Small.MaxActive) {
			imagetest.SetLive(t, f, 4+i, zone.Pack(4+i, zone.Closed, 8))
		}
	})
	if mended, err := image.Repair(path, image.RepairZoneCommitted); err == nil || !strings.Contains(err.Error(), "zone 2 cannot be closed") || !strings.Contains(err.Error(), "--repair=zone-offline") {
		t.Errorf("mended %q, %v", mended, err)
	}
	repair(t, path, image.RepairZoneOffline)
	imagetest.CloseDisk(t, openDisk(t, path), path)
}

// A block of the committed table of which nothing is left: the live table has it all, where
// that counts, and else its zones can be taken offline.
func TestLostBlockOfTheCommittedTable(t *testing.T) {
	lose := func(f *os.File, l *format.Layout) {
		imagetest.Patch(t, f, make([]byte, 2*format.BlockBytes), l.TableOff)
	}
	path, data := killedImage(t)
	imagetest.Edit(t, path, lose)
	repair(t, path, image.RepairSafe)
	imagetest.CutPower(t, path) // it was durable
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	c.WantZone(2, zone.Closed, 16)
	imagetest.CloseDisk(t, d, path)

	path, _ = killedImage(t)
	imagetest.CutPower(t, path)
	imagetest.Edit(t, path, lose)
	for _, mode := range []image.RepairMode{image.RepairSafe, image.RepairZoneCommitted} {
		if mended, err := image.Repair(path, mode); err != nil || len(mended) > 0 {
			t.Errorf("%v: mended %q, %v", mode, mended, err)
		}
	}
	repair(t, path, image.RepairZoneOffline)
	d = openDisk(t, path)
	if err := SetZoneStates(d, []int{0, 2, 4}, ToWritable); err != nil {
		t.Fatal(err)
	}
	c = disktest.NewClient(t, d)
	c.WantZone(2, zone.Closed, 16)
	c.WantZone(3, zone.Offline, 0)
	c.WantZone(4, zone.Empty, 0)
	if !bytes.Equal(c.Read(2*128, 8192), data) {
		t.Error("its data has changed")
	}
	imagetest.CloseDisk(t, d, path)
}

// Where nobody knows how the image was left, going on from what was committed has to be
// asked for.
func TestBothStateBlocksGone(t *testing.T) {
	path, data := killedImage(t)
	imagetest.Edit(t, path, func(f *os.File, _ *format.Layout) {
		imagetest.Patch(t, f, make([]byte, 2*format.BlockBytes), format.StateOff)
	})
	findings, err := image.Check(path)
	if err != nil || len(findings) != 2 || !strings.Contains(findings[0].Remedy, "--repair=zone-committed") {
		t.Errorf("found %+v, %v", findings, err)
	}
	for _, mode := range []image.RepairMode{image.RepairSafe, image.RepairZoneOffline} {
		if mended, err := image.Repair(path, mode); err != nil || len(mended) > 0 {
			t.Errorf("%v: mended %q, %v", mode, mended, err)
		}
	}
	repair(t, path, image.RepairZoneCommitted)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	c.WantZone(2, zone.Closed, 8)
	if !bytes.Equal(c.Read(256, 4096), data[:4096]) || disk.Run(d) == 0 || !disk.Unclean(d) {
		t.Error("other data than was flushed, or a clean image")
	}
	imagetest.CloseDisk(t, d, path)
}

// A superblock with a right checksum that claims the most zones there can be, in a small
// file: one finding, and nothing is looked for where it says.
func TestClaimOfTooManyZones(t *testing.T) {
	for _, size := range []int64{0, 256 << 20, 1 << 40, 8 << 40} {
		path := imagetest.NewFast(t, disktest.Small)
		imagetest.Edit(t, path, func(f *os.File, l *format.Layout) {
			g := zone.Geometry{CapacitySectors: zone.MaxZones * 4096, ZoneSectors: 4096} // 8 TiB
			if size == 8<<40 {
				g = zone.Geometry{CapacitySectors: zone.MaxZones * 2048, ZoneSectors: 2048} // and all of it is there, as a hole
			}
			if err := g.Complete(); err != nil {
				t.Fatal(err)
			}
			claim := format.NewLayout(g)
			claim.UUID = l.UUID
			imagetest.Patch(t, f, claim.EncodeSuper(), format.SuperOff)
			imagetest.Patch(t, f, claim.EncodeSuper(), format.SuperCopyOff)
			if size != 0 { // sparse: it costs nothing
				if err := f.Truncate(size); err != nil {
					t.Fatal(err)
				}
			}
		})
		before := contentsBegin(t, path)
		findings, err := image.Check(path)
		what := "it was cut short"
		if size == 8<<40 {
			what = "the zone tables are not there"
		}
		if err != nil || len(findings) != 1 || !strings.Contains(findings[0].String(), what) {
			t.Errorf("%d bytes: found %q, %v", size, findings, err)
		}
		if mended, err := image.Repair(path, image.RepairZoneOffline); err != nil || len(mended) > 0 || !bytes.Equal(contentsBegin(t, path), before) {
			t.Errorf("%d bytes: mended %q, %v", size, mended, err)
		}
		if _, err := ReadReport(path); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%d bytes: report: %v", size, err)
		}
		if _, err := Open(path, disk.Options{}); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%d bytes: open: %v", size, err)
		}
	}
}

func contentsBegin(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1<<20)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// manyFindings is how many findings of a kind are listed, as docs and users know it.
const manyFindings = 20

// However much is damaged, the list is short, and says how much more there is; repairing
// all of it works.
func TestManyFindings(t *testing.T) {
	g := zone.Geometry{CapacitySectors: 3000 * 8, ZoneSectors: 8}
	path := imagetest.NewFast(t, g)
	imagetest.Edit(t, path, func(f *os.File, _ *format.Layout) {
		imagetest.Patch(t, f, bytes.Repeat([]byte{0x55}, 8*2990), format.LiveOff+8)
	})
	findings, err := image.Check(path)
	if err != nil || len(findings) != manyFindings+1 || findings[manyFindings].String() != "live zone table: and 2970 more like these" {
		t.Errorf("%d findings, the last: %q, %v", len(findings), findings[len(findings)-1], err)
	}
	mended, err := image.Repair(path, image.RepairSafe)
	if err != nil || len(mended) != manyFindings+1 {
		t.Errorf("%d mended, %v", len(mended), err)
	}
	imagetest.WantClean(t, path)
	imagetest.Edit(t, path, func(f *os.File, l *format.Layout) {
		for n := range l.Blocks() {
			imagetest.Patch(t, f, []byte("x"), l.TableOff+int64(2*n)*format.BlockBytes+9)
		}
		for i := range 2990 {
			imagetest.SetLive(t, f, i, zone.Pack(i, zone.Closed, 8))
		}
	})
	findings, err = image.Check(path)
	if last := findings[len(findings)-1].String(); err != nil || len(findings) > 3*manyFindings || last != "zones: and 2970 more like these" {
		t.Errorf("%d findings, the last: %q, %v", len(findings), last, err)
	}
}
