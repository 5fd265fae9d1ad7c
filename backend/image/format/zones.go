package format

import (
	"slices"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// AllPowerCycled is the committed table as a drive shows it after a power cycle.
func (l *Layout) AllPowerCycled(commits []zone.Entry) []zone.Entry {
	words := slices.Clone(commits)
	for i, w := range words {
		words[i] = l.PowerCycled(i, w)
	}
	return words
}

// PowerCycled is the entry w of zone i after a power cycle.
func (l *Layout) PowerCycled(i int, w zone.Entry) zone.Entry {
	if w.State().IsActive() {
		return l.Settled(i, zone.Pack(i, zone.Closed, w.Written()))
	}
	return w
}

// Settled is the entry w of zone i now that no write is in flight any more.
func (l *Layout) Settled(i int, w zone.Entry) zone.Entry {
	switch s := w.State(); {
	case (s == zone.ImpOpen || s == zone.Closed) && w.Written() == 0:
		return zone.Pack(i, zone.Empty, 0) // opened by a write that was never answered
	case s.IsActive() && w.Written() == l.Capacity(i):
		return zone.Pack(i, zone.Full, w.Written()) // the last write had landed, and one before it had not
	}
	return w
}

// CheckLimits says whether more zones are open or active than may be. No crash
// leaves an image like that, so nobody knows what is wrong with it.
func (l *Layout) CheckLimits(words []zone.Entry) error {
	r := zone.Resources{MaxOpen: l.MaxOpen, MaxActive: l.MaxActive}
	for i, w := range words {
		if err := r.Move(zone.Empty, w.State()); err != nil {
			return disk.Damagedf("zone %d is %v, but there are %w; run 'zvhost check'", i, w.State(), err)
		}
	}
	return nil
}

// ReturnState is the state in which zone i comes back that has so many sectors written.
func (l *Layout) ReturnState(i int, written uint64) zone.State {
	switch written {
	case 0:
		return zone.Empty
	case l.Capacity(i):
		return zone.Full
	}
	return zone.Closed
}
