package backend

import (
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/zone"
)

// A faultyStore has a bug in the order in which an image writes and syncs: a store that
// does not do what it is told, or not then.
type faultyStore struct {
	*cutHost
	late []func() error // what was put off
	bug  func(p *faultyStore, call string, off int64, b []byte, now func() error) error
}

func (p *faultyStore) Sync() error { return p.bug(p, "sync", 0, nil, p.cutHost.Sync) }

func (p *faultyStore) WriteStable(b []byte, off int64) error {
	call := "table"
	if off < format.LiveOff {
		call = "state"
	}
	b = append([]byte(nil), b...) // it may be written later
	return p.bug(p, call, off, b, func() error { return p.cutHost.WriteStable(b, off) })
}

func (p *faultyStore) Wipe(off, n int64) error {
	return p.bug(p, "wipe", off, make([]byte, n), func() error { return p.cutHost.Wipe(off, n) })
}

// catchUp does what was put off.
func (p *faultyStore) catchUp() error {
	late := p.late
	p.late = nil
	for _, f := range late {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// plants are the bugs, by name.
var plants = map[string]func(p *faultyStore, call string, off int64, b []byte, now func() error) error{
	"no sync in a flush": func(p *faultyStore, call string, _ int64, _ []byte, now func() error) error {
		if call == "sync" && p.phase == "run" {
			return nil
		}
		return now()
	},
	"the table is committed before the sync": func(p *faultyStore, call string, _ int64, _ []byte, now func() error) error {
		switch {
		case call == "sync" && p.phase == "run":
			p.late = append(p.late, now)
			return nil
		case call == "table":
			if err := now(); err != nil {
				return err
			}
			return p.catchUp()
		}
		return now()
	},
	"a reset wipes before it is committed": func(p *faultyStore, call string, off int64, b []byte, now func() error) error {
		if call != "table" || p.phase != "run" {
			return now()
		}
		// Which zones the block says are empty, though they are not yet.
		first := int(off-p.l.TableOff) / (2 * format.BlockBytes) * format.BlockZones
		n := min(format.BlockZones, p.l.Zones()-first)
		words := make([]zone.Entry, n)
		if _, err := format.DecodeBlock(b, first/format.BlockZones, words); err != nil {
			return err
		}
		was, _, _, err := format.ReadCommitted(p.f, p.l)
		if err != nil {
			return err
		}
		for i, w := range words {
			if zn := first + i; w.State() == zone.Empty && was[zn].HasData() {
				if err := p.cutHost.Wipe(p.l.Offset(uint64(zn)*p.l.ZoneSectors), int64(p.l.Length(zn))<<disk.SectorShift); err != nil {
					return err
				}
			}
		}
		return now()
	},
	"recovery wipes before it commits": func(p *faultyStore, call string, _ int64, _ []byte, now func() error) error {
		switch {
		case p.phase == "open" && call == "table":
			p.late = append(p.late, now)
			return nil
		case p.phase != "open" && len(p.late) > 0:
			if err := p.catchUp(); err != nil {
				return err
			}
		}
		return now()
	},
	"the image says that it is in use too late": func(p *faultyStore, call string, _ int64, _ []byte, now func() error) error {
		switch {
		case p.phase == "open" && call == "state":
			p.late = append(p.late, now)
			return nil
		case call == "sync":
			if err := p.catchUp(); err != nil {
				return err
			}
		}
		return now()
	},
	"the image says that it is clean before its live table is synced": func(p *faultyStore, call string, _ int64, _ []byte, now func() error) error {
		if p.phase == "close" && call == "sync" {
			return nil
		}
		return now()
	},
	"table blocks are written but not made durable": func(p *faultyStore, call string, off int64, b []byte, now func() error) error {
		if call != "table" {
			return now()
		}
		if err := p.begin(); err != nil {
			return err
		}
		p.rec.Write(off, b)
		_, err := p.f.WriteAt(b, off)
		return err
	},
	"a commit writes over the copy that counts": func(p *faultyStore, call string, off int64, b []byte, now func() error) error {
		if call != "table" {
			return now()
		}
		// Both copies at once, so that the numbers are right.
		other := p.l.TableOff + (off - p.l.TableOff) ^ format.BlockBytes
		clobber := make([]byte, format.BlockBytes)
		if err := p.cutHost.WriteStable(clobber, other); err != nil {
			return err
		}
		return now()
	},
	"a reset leaves the old data where it is": func(p *faultyStore, call string, _ int64, _ []byte, now func() error) error {
		if call == "wipe" {
			return nil
		}
		return now()
	},
}

// Every bug that is planted is found: TestPowerCuts can fail.
func TestPlantedPowerCutBugsAreFound(t *testing.T) {
	dir := disktest.FastDir(t)
	for name, bug := range plants {
		inBubble(t, func(t *testing.T) {
			var sum cutTally
			for seed := uint64(1); sum.cuts < 2000; seed++ {
				told, _, err := runCuts(dir, seed, 0, func(h *cutHost) image.Store { return &faultyStore{cutHost: h, bug: bug} })
				if sum.add(told); err != nil {
					t.Logf("%s: found after %d power cuts: %v", name, sum.cuts, err)
					return
				}
			}
			t.Errorf("%s: not found in %d power cuts", name, sum.cuts)
		})
	}
}
