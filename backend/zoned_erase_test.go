package backend

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

func eraseOf(ranges ...disk.Range) *disk.Request {
	return &disk.Request{Op: disk.OpSecureErase, Sector: ranges[0].Sector, Ranges: ranges}
}

// What a secure erase may name, and what it leaves alone when it may not.
func TestEraseRanges(t *testing.T) {
	for name, g := range suiteGeometries {
		t.Run(name, func(t *testing.T) {
			zn, conv := g.ZoneSectors, uint64(g.ConventionalZones)*g.ZoneSectors
			last := uint64(g.Zones()-1) * zn
			path := newImage(t, g)
			setStates(t, path, map[int]zone.State{g.ConventionalZones + 2: zone.ReadOnly, g.ConventionalZones + 3: zone.Offline})
			d := openDisk(t, path)
			defer closeDisk(t, d, path)
			c := newClient(t, d)
			first := g.ConventionalZones
			data := pattern('e', 4096)
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
				c.want(c.zoneOp(disk.OpResetAll, 0), nil)
				c.want(c.write(conv, data), nil)
				c.want(c.write(conv+zn, data), nil)
				err := c.do(eraseOf(c2.ranges...))
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
				c.want(c.do(eraseOf(disk.Range{Sector: 0, Sectors: uint32(zn)})), zone.ErrInvalid)
			}
		})
	}
}

// "in the same way it handles VIRTIO_BLK_T_ZONE_RESET", and when it is answered
// the old data is gone from the file and the reset is in the committed table.
func TestEraseIsGone(t *testing.T) {
	path := newImage(t, small)
	d, fs := openFaulty(t, path)
	c := newClient(t, d)
	data := pattern('g', 4096)
	c.want(c.write(256, data), nil)
	c.want(c.write(384, data), nil)
	c.want(c.zoneOp(disk.OpOpen, 512), nil)
	c.want(c.flush(), nil)
	fs.seen()
	c.want(c.do(eraseOf(disk.Range{Sector: 256, Sectors: 3 * 128})), nil)
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
		c.wantZone(i, zone.Empty, 0)
	}
	kill(t, d, fs)
	powerCut(t, path)
	for i := 2; i < 5; i++ {
		if bytes.Contains(rawZone(t, path, i), data[:512]) {
			t.Errorf("zone %d: the old data is still in the file", i)
		}
	}
	d2 := openDisk(t, path)
	for i := 2; i < 5; i++ {
		if z := d2.ReportZone(i); z.State != zone.Empty {
			t.Errorf("after a power cut zone %d is %v", i, z.State)
		}
	}
	closeDisk(t, d2, path)
}

// An erase waits for its zones' writes in flight, and what comes later waits
// behind it.
func TestEraseWaits(t *testing.T) {
	path := newImage(t, small)
	d := openDisk(t, path)
	defer closeDisk(t, d, path)
	c, e := heldClient(t, d, func(op *engine.Op) bool { return op.Code == engine.Writev })
	first, second := request(disk.OpWrite, 256, pattern('1', 4096)), request(disk.OpWrite, 384, pattern('2', 4096))
	erase, behind := eraseOf(disk.Range{Sector: 256, Sectors: 256}), request(disk.OpAppend, 256, pattern('3', 4096))
	c.submit(first, second, erase, behind)
	if len(e.held) != 2 {
		t.Fatalf("%d writes are under way, want 2", len(e.held))
	}
	e.hold = nil
	eventually(t, func() bool {
		c.settleHeld(e)
		c.lane.Done()
		return c.lane.InFlight() == 0
	})
	for _, r := range []*disk.Request{first, second, erase, behind} {
		c.want(r.Err, nil)
	}
	c.wantZone(2, zone.ImpOpen, 8)
	c.wantZone(3, zone.Empty, 0)
}

// An erase whose old data cannot be cleared fails, and the next one tries again.
func TestEraseFails(t *testing.T) {
	path := newImage(t, small)
	d, fs := openFaulty(t, path)
	c := newClient(t, d)
	c.want(c.write(256, pattern('f', 4096)), nil)
	fs.refuse(failing("wipe", unix.EIO))
	for range 2 {
		c.want(c.do(eraseOf(disk.Range{Sector: 256, Sectors: 128})), disk.ErrIO)
		c.wantZone(2, zone.Empty, 0)
	}
	fs.refuse(nil)
	c.want(c.do(eraseOf(disk.Range{Sector: 256, Sectors: 128})), nil)
	if bytes.ContainsRune(rawZone(t, path, 2), 'f') {
		t.Error("the old data is still in the file")
	}
	closeDisk(t, d, path)
}

// An erase whose old data could not be cleared does not take a later try, which
// somebody's write has set off meanwhile, for its success.
func TestEraseWaitsForAnotherTry(t *testing.T) {
	path := newImage(t, small)
	d, fs := openFaulty(t, path)
	c, other := newClient(t, d), newClient(t, d)
	c.want(c.write(256, pattern('f', 4096)), nil)
	write := request(disk.OpWrite, 256, pattern('g', 4096))
	sent := false
	fs.refuse(func(call storeCall) error {
		switch {
		case call.op == "wipe":
			return unix.EIO
		case call.op == "sync" && !sent:
			sent = true
			other.submit(write) // the zone's gate is shut: it sets off another try
		}
		return nil
	})
	c.want(c.do(eraseOf(disk.Range{Sector: 256, Sectors: 128})), disk.ErrIO)
	if !sent {
		t.Error("no write came in between")
	}
	if got := other.wait(); got != write {
		t.Errorf("%v is done, want the write", got)
	}
	c.want(write.Err, disk.ErrIO)
	fs.refuse(nil)
	closeDisk(t, d, path)
}

// A guest that sets off one try after another does not make an erase wait for ever.
func TestEraseGivesUp(t *testing.T) {
	path := newImage(t, small)
	d, fs := openFaulty(t, path)
	c, other := newClient(t, d), newClient(t, d)
	c.want(c.write(256, pattern('f', 4096)), nil)
	var writes []*disk.Request
	fs.refuse(func(call storeCall) error {
		switch {
		case call.op == "wipe":
			return unix.EIO
		case call.op == "sync" && len(writes) < 50:
			writes = append(writes, request(disk.OpWrite, 256, pattern('g', 4096)))
			other.submit(writes[len(writes)-1])
		}
		return nil
	})
	c.want(c.do(eraseOf(disk.Range{Sector: 256, Sectors: 128})), disk.ErrIO)
	if len(writes) == 0 || len(writes) == 50 {
		t.Errorf("it ended after %d tries", len(writes))
	}
	for range writes {
		c.want(other.wait().Err, disk.ErrIO)
	}
	fs.refuse(nil)
	closeDisk(t, d, path)
}

// An erase is done when its own zones' old data is gone, however often the zones are
// written and reset meanwhile.
func TestEraseBesideResets(t *testing.T) {
	path := newImage(t, small)
	d, fs := openFaulty(t, path)
	c, other := newClient(t, d), newClient(t, d)
	c.want(c.write(256, pattern('f', 4096)), nil)
	again := 0
	fs.refuse(func(call storeCall) error {
		if call.op == "sync" && again < 50 { // the old data is gone, and the zone's gate is open
			again++
			other.want(other.write(256, pattern('g', 4096)), nil)
			other.want(other.zoneOp(disk.OpReset, 256), nil)
		}
		return nil
	})
	c.want(c.do(eraseOf(disk.Range{Sector: 256, Sectors: 128})), nil)
	if again != 1 {
		t.Errorf("it took %d syncs", again)
	}
	fs.refuse(nil)
	closeDisk(t, d, path)
}
