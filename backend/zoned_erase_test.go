package backend

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

func eraseOf(ranges ...disk.Range) *disk.Request {
	return &disk.Request{Op: disk.OpSecureErase, Sector: ranges[0].Sector, Ranges: ranges}
}

// What a secure erase may name, and what it leaves alone when it may not.
func TestEraseRanges(t *testing.T) {
	for name, g := range disktest.SuiteGeometries {
		t.Run(name, func(t *testing.T) {
			zn, conv := g.ZoneSectors, uint64(g.ConventionalZones)*g.ZoneSectors
			last := uint64(g.Zones()-1) * zn
			path := imagetest.New(t, g)
			imagetest.SetStates(t, path, map[int]zone.State{g.ConventionalZones + 2: zone.ReadOnly, g.ConventionalZones + 3: zone.Offline})
			d := openDisk(t, path)
			defer imagetest.CloseDisk(t, d, path)
			c := disktest.NewClient(t, d)
			first := g.ConventionalZones
			data := disktest.Pattern('e', 4096)
			for _, c2 := range []struct {
				name   string
				ranges []disk.Range
				want   error
			}{
				{"one zone", []disk.Range{{Sector: conv, Sectors: uint32(zn)}}, nil},
				{"two zones", []disk.Range{{Sector: conv, Sectors: uint32(2 * zn)}}, nil},
				{"twice the same", []disk.Range{{Sector: conv, Sectors: uint32(zn)}, {Sector: conv, Sectors: uint32(zn)}}, nil},
				{"backwards", []disk.Range{{Sector: conv + zn, Sectors: uint32(zn)}, {Sector: conv, Sectors: uint32(zn)}}, nil},
				{"nothing", []disk.Range{{Sector: conv, Sectors: 0}}, nil},
				{"the last zone", []disk.Range{{Sector: last, Sectors: uint32(g.CapacitySectors - last)}}, nil},
				{"half a zone", []disk.Range{{Sector: conv, Sectors: uint32(zn / 2)}}, zone.ErrInvalid},
				{"from the middle of a zone", []disk.Range{{Sector: conv + zn/2, Sectors: uint32(zn)}}, zone.ErrInvalid},
				{"past the end", []disk.Range{{Sector: last, Sectors: uint32(g.CapacitySectors-last) + uint32(zn)}}, disk.ErrRange},
				{"far past the end", []disk.Range{{Sector: ^uint64(0) - zn + 1, Sectors: uint32(zn)}}, disk.ErrRange},
				{"a read-only zone", []disk.Range{{Sector: conv, Sectors: uint32(3 * zn)}}, zone.ErrInvalid},
				{"an offline zone", []disk.Range{{Sector: conv, Sectors: uint32(zn)}, {Sector: conv + 3*zn, Sectors: uint32(zn)}}, zone.ErrInvalid},
			} {
				c.WantError(c.ZoneOp(disk.OpResetAll, 0), nil)
				c.WantError(c.Write(conv, data), nil)
				c.WantError(c.Write(conv+zn, data), nil)
				err := c.Do(eraseOf(c2.ranges...))
				if !errors.Is(err, c2.want) {
					t.Errorf("%s: got %v, want %v", c2.name, err, c2.want)
				}
				for i := range 2 {
					erased := false
					for _, r := range c2.ranges {
						at := uint64(first+i) * zn
						erased = erased || c2.want == nil && r.Sector <= at && at < r.Sector+uint64(r.Sectors)
					}
					if z := d.ReportZone(first + i); (z.State == zone.Empty) != erased {
						t.Errorf("%s: zone %d is %v", c2.name, first+i, z.State)
					}
				}
			}
			if first > 0 {
				c.WantError(c.Do(eraseOf(disk.Range{Sector: 0, Sectors: uint32(zn)})), zone.ErrInvalid)
			}
		})
	}
}

// "in the same way it handles VIRTIO_BLK_T_ZONE_RESET", and when it is answered
// the old data is gone from the file and the reset is in the committed table.
func TestEraseIsGone(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	data := disktest.Pattern('g', 4096)
	c.WantError(c.Write(256, data), nil)
	c.WantError(c.Write(384, data), nil)
	c.WantError(c.ZoneOp(disk.OpOpen, 512), nil)
	c.WantError(c.Flush(), nil)
	fs.seen()
	c.WantError(c.Do(eraseOf(disk.Range{Sector: 256, Sectors: 3 * 128})), nil)
	// In one round, or in several when the committer is quick.
	var steps []string
	for _, call := range fs.seen() {
		steps = append(steps, call.op)
	}
	rounds := regexp.MustCompile(`^(stable wipe )+sync\b`)
	if got := strings.Join(steps, " "); !rounds.MatchString(got) {
		t.Errorf("the steps were %s, want the table, the hole, a sync", got)
	}
	for i := 2; i < 5; i++ {
		c.WantZone(i, zone.Empty, 0)
	}
	kill(t, d, fs)
	imagetest.CutPower(t, path)
	for i := 2; i < 5; i++ {
		if bytes.Contains(imagetest.RawZone(t, path, i), data[:512]) {
			t.Errorf("zone %d: the old data is still in the file", i)
		}
	}
	d2 := openDisk(t, path)
	for i := 2; i < 5; i++ {
		if z := d2.ReportZone(i); z.State != zone.Empty {
			t.Errorf("after a power cut zone %d is %v", i, z.State)
		}
	}
	imagetest.CloseDisk(t, d2, path)
}

// An erase waits for its zones' writes in flight, and what comes later waits
// behind it.
func TestEraseWaits(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d := openDisk(t, path)
	defer imagetest.CloseDisk(t, d, path)
	c, e := disktest.HeldClient(t, d, func(op *engine.Op) bool { return op.Code == engine.Writev })
	first, second := disktest.NewRequest(disk.OpWrite, 256, disktest.Pattern('1', 4096)), disktest.NewRequest(disk.OpWrite, 384, disktest.Pattern('2', 4096))
	erase, behind := eraseOf(disk.Range{Sector: 256, Sectors: 256}), disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('3', 4096))
	c.Submit(first, second, erase, behind)
	if len(e.Held) != 2 {
		t.Fatalf("%d writes are under way, want 2", len(e.Held))
	}
	e.Hold = nil
	disktest.Await(t, func() bool {
		c.ReleaseAll(e)
		c.Lane.Done()
		return c.Lane.InFlight() == 0
	})
	for _, r := range []*disk.Request{first, second, erase, behind} {
		c.WantError(r.Err, nil)
	}
	c.WantZone(2, zone.ImpOpen, 8)
	c.WantZone(3, zone.Empty, 0)
}

// An erase whose old data cannot be cleared fails, and the next one tries again.
func TestEraseFails(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('f', 4096)), nil)
	fs.refuse(failing("wipe", unix.EIO))
	for range 2 {
		c.WantError(c.Do(eraseOf(disk.Range{Sector: 256, Sectors: 128})), disk.ErrIO)
		c.WantZone(2, zone.Empty, 0)
	}
	fs.refuse(nil)
	c.WantError(c.Do(eraseOf(disk.Range{Sector: 256, Sectors: 128})), nil)
	if bytes.ContainsRune(imagetest.RawZone(t, path, 2), 'f') {
		t.Error("the old data is still in the file")
	}
	imagetest.CloseDisk(t, d, path)
}

// An erase whose old data could not be cleared does not take a later try, which
// somebody's write has set off meanwhile, for its success.
func TestEraseWaitsForAnotherTry(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c, other := disktest.NewClient(t, d), disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('f', 4096)), nil)
	write := disktest.NewRequest(disk.OpWrite, 256, disktest.Pattern('g', 4096))
	sent := false
	fs.refuse(func(call storeCall) error {
		switch {
		case call.op == "wipe":
			return unix.EIO
		case call.op == "sync" && !sent:
			sent = true
			other.Submit(write) // the zone's gate is shut: it sets off another try
		}
		return nil
	})
	c.WantError(c.Do(eraseOf(disk.Range{Sector: 256, Sectors: 128})), disk.ErrIO)
	if !sent {
		t.Error("no write came in between")
	}
	if got := other.Wait(); got != write {
		t.Errorf("%v is done, want the write", got)
	}
	c.WantError(write.Err, disk.ErrIO)
	fs.refuse(nil)
	imagetest.CloseDisk(t, d, path)
}

// A guest that sets off one try after another does not make an erase wait for ever.
func TestEraseGivesUp(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c, other := disktest.NewClient(t, d), disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('f', 4096)), nil)
	var writes []*disk.Request
	fs.refuse(func(call storeCall) error {
		switch {
		case call.op == "wipe":
			return unix.EIO
		case call.op == "sync" && len(writes) < 50:
			writes = append(writes, disktest.NewRequest(disk.OpWrite, 256, disktest.Pattern('g', 4096)))
			other.Submit(writes[len(writes)-1])
		}
		return nil
	})
	c.WantError(c.Do(eraseOf(disk.Range{Sector: 256, Sectors: 128})), disk.ErrIO)
	if len(writes) == 0 || len(writes) == 50 {
		t.Errorf("it ended after %d tries", len(writes))
	}
	for range writes {
		c.WantError(other.Wait().Err, disk.ErrIO)
	}
	fs.refuse(nil)
	imagetest.CloseDisk(t, d, path)
}

// An erase is done when its own zones' old data is gone, however often the zones are
// written and reset meanwhile.
func TestEraseBesideResets(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c, other := disktest.NewClient(t, d), disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('f', 4096)), nil)
	again := 0
	fs.refuse(func(call storeCall) error {
		if call.op == "sync" && again < 50 { // the old data is gone, and the zone's gate is open
			again++
			other.WantError(other.Write(256, disktest.Pattern('g', 4096)), nil)
			other.WantError(other.ZoneOp(disk.OpReset, 256), nil)
		}
		return nil
	})
	c.WantError(c.Do(eraseOf(disk.Range{Sector: 256, Sectors: 128})), nil)
	if again != 1 {
		t.Errorf("it took %d syncs", again)
	}
	fs.refuse(nil)
	imagetest.CloseDisk(t, d, path)
}
