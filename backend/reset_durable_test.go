package backend

import (
	"strings"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// A zoneScript is what is sent to zone 2 of a disk, word by word, and what a power cut
// and a kill leave of that. A word that ends in "!" is followed by a flush.
type zoneScript struct {
	words      string
	cut        zone.State
	cutWritten uint64
	kill       zone.State
	written    uint64
}

// Whatever a zone was that takes a write after a reset, finished without any data in it
// too, the reset is durable by then; and what was flushed behind a reset stays.
func TestResetIsDurableBeforeTheNextWrite(t *testing.T) {
	for _, s := range []zoneScript{
		{"finish! reset append", zone.Empty, 0, zone.ImpOpen, 8},
		{"finish! reset append reset append", zone.Empty, 0, zone.ImpOpen, 8},
		{"finish! reset finish reset append", zone.Empty, 0, zone.ImpOpen, 8},
		{"finish! reset open append", zone.Empty, 0, zone.ExpOpen, 8},
		{"finish! reset open close append", zone.Empty, 0, zone.ImpOpen, 8},
		{"finish! reset-all append", zone.Empty, 0, zone.ImpOpen, 8},
		{"finish! reset-all append reset-all append", zone.Empty, 0, zone.ImpOpen, 8},
		{"finish! erase", zone.Empty, 0, zone.Empty, 0},
		{"finish! erase append", zone.Empty, 0, zone.ImpOpen, 8},
		{"finish! erase finish reset append", zone.Empty, 0, zone.ImpOpen, 8},
		{"finish! reset append!", zone.Closed, 8, zone.ImpOpen, 8},
		{"finish! reset append! append", zone.Closed, 8, zone.ImpOpen, 16},
		{"finish! reset finish!", zone.Full, 0, zone.Full, 0},
		{"finish! reset! finish", zone.Empty, 0, zone.Full, 0},
		{"append finish! reset append", zone.Empty, 0, zone.ImpOpen, 8},
		{"append finish! reset finish!", zone.Full, 0, zone.Full, 0},
		{"append! reset finish! reset append", zone.Empty, 0, zone.ImpOpen, 8},
		{"append! reset finish!", zone.Full, 0, zone.Full, 0},
		{"append finish! reset finish reset finish!", zone.Full, 0, zone.Full, 0},
		{"open! reset append", zone.Empty, 0, zone.ImpOpen, 8},
		{"open! append close! reset append", zone.Empty, 0, zone.ImpOpen, 8},
		{"full reset append", zone.Empty, 0, zone.ImpOpen, 8},
		{"full empty append", zone.Empty, 0, zone.ImpOpen, 8},
		{"full empty reset append", zone.Empty, 0, zone.ImpOpen, 8},
		{"append full reset append", zone.Empty, 0, zone.ImpOpen, 8},
		{"read-only empty append", zone.Empty, 0, zone.ImpOpen, 8},
		{"offline empty append", zone.Empty, 0, zone.ImpOpen, 8},
		{"offline writable append", zone.Empty, 0, zone.ImpOpen, 8},
		{"finish! read-only writable append", zone.Empty, 0, zone.ImpOpen, 8},
		{"finish! offline empty append reset append", zone.Empty, 0, zone.ImpOpen, 8},
	} {
		for _, cut := range []bool{true, false} {
			path := imagetest.NewFast(t, disktest.Small)
			d, fs := openFaulty(t, path)
			c := disktest.NewClient(t, d)
			carryOut(c, s.words)
			kill(t, d, fs)
			state, written := s.kill, s.written
			if cut {
				imagetest.CutPower(t, path)
				state, written = s.cut, s.cutWritten
			}
			d = openDisk(t, path).(*zoned)
			wp := written
			if state == zone.Full {
				wp = disktest.Small.ZoneSectors
			}
			if z := d.ReportZone(2); z.State != state || z.WP-z.Start != wp {
				t.Errorf("%s, power cut %v: zone 2 is %v, written up to %d; want %v, %d", s.words, cut, z.State, z.WP-z.Start, state, wp)
			}
			if w := d.Entry(2); w.Written() != written {
				t.Errorf("%s, power cut %v: %d sectors are written, want %d", s.words, cut, w.Written(), written)
			}
			imagetest.CloseDisk(t, d, path)
		}
	}
}

// carryOut sends what a zoneScript says.
func carryOut(c *disktest.Client, words string) {
	c.T.Helper()
	at := 2 * disktest.Small.ZoneSectors
	for _, w := range strings.Fields(words) {
		w, flush := strings.CutSuffix(w, "!")
		switch w {
		case "append":
			_, err := c.Append(at, disktest.Pattern('a', 4096))
			c.WantError(err, nil)
		case "erase":
			c.WantError(c.Do(eraseOf(disk.Range{Sector: at, Sectors: uint32(disktest.Small.ZoneSectors)})), nil)
		case "reset-all":
			c.WantError(c.ZoneOp(disk.OpResetAll, 0), nil)
		case "open", "close", "finish", "reset":
			c.WantError(c.ZoneOp(map[string]disk.Op{"open": disk.OpOpen, "close": disk.OpClose, "finish": disk.OpFinish, "reset": disk.OpReset}[w], at), nil)
		default:
			to, err := ParseZoneTarget(w)
			if err == nil {
				err = SetZoneStates(c.Disk, []int{2}, to)
			}
			c.WantError(err, nil)
		}
		if flush {
			c.WantError(c.Flush(), nil)
		}
	}
}

// A zone that is finished and reset again while its reset is on its way to the disk gets
// its place there once that has ended, and nothing is done to what is written then.
func TestResetsOfOneZoneMeet(t *testing.T) {
	for _, words := range []string{"finish", "finish reset", "finish reset finish reset", "open reset"} {
		for _, before := range []string{"finish!", "append finish!", "append!"} {
			path := imagetest.NewFast(t, disktest.Small)
			d, fs := openFaulty(t, path)
			c := disktest.NewClient(t, d)
			carryOut(c, before)
			fs.seen()
			for _, point := range []string{"stable", "wipe"} {
				reached, goOn := make(chan struct{}), make(chan struct{})
				held := false
				fs.refuse(func(call storeCall) error {
					if call.op == point && !held {
						held = true
						close(reached)
						<-goOn
					}
					return nil
				})
				carryOut(c, "reset")
				<-reached
				carryOut(c, words)
				close(goOn)
				if strings.HasSuffix(words, "finish") {
					carryOut(c, "reset")
				}
				carryOut(c, "append")
				fs.refuse(nil)
				if point == "stable" {
					carryOut(c, "reset append finish!")
				}
			}
			carryOut(c, "append!")
			kill(t, d, fs)
			imagetest.CutPower(t, path)
			d = openDisk(t, path).(*zoned)
			c = disktest.NewClient(t, d)
			if z := d.ReportZone(2); z.State != zone.Closed || z.WP-z.Start != 16 {
				t.Errorf("%s, reset, %s: zone 2 is %v, written up to %d", before, words, z.State, z.WP-z.Start)
			}
			if got := c.Read(2*disktest.Small.ZoneSectors, 8192); string(got) != string(disktest.Pattern('a', 4096))+string(disktest.Pattern('a', 4096)) {
				t.Errorf("%s, reset, %s: zone 2 does not hold what was written", before, words)
			}
			imagetest.CloseDisk(t, d, path)
		}
	}
}
