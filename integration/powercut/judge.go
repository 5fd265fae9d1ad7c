package main

import (
	"errors"
	"fmt"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/virtio/driver"
)

// A view is what a zone shows after a power cut. A stamp stands for each sector.
type view struct {
	state   uint8
	written uint64 // sectors below the write pointer; of a full zone, those that are not zeroes
	sectors []rig.Stamp
}

// judge says whether the zones are what a power cut may leave of the history,
// when lower and upper are its window.
func (h *history) judge(views []view, lower, upper int) error {
	active := 0
	for i := range views {
		v, err := &views[i], error(nil)
		if i < h.g.Conventional {
			err = judgeConventional(h.zones[i][0], v, lower, upper)
		} else {
			err = h.judgeZone(i, v, lower, upper)
		}
		if err != nil {
			return fmt.Errorf("zone %d is %s with %d sectors written: %w", i, rig.StateNames[v.state], v.written, err)
		}
		if v.state == driver.ZoneClosed {
			active++
		}
	}
	if h.g.MaxActive != 0 && active > h.g.MaxActive {
		return fmt.Errorf("%d zones are active, at most %d may be", active, h.g.MaxActive)
	}
	return nil
}

// judgeZone looks for a life of zone i that may have been its last.
func (h *history) judgeZone(i int, v *view, lower, upper int) error {
	lives := h.zones[i]
	first := 0
	for n, l := range lives {
		if l.resetRet < lower {
			first = n
		}
	}
	var errs error
	for n := first; n < len(lives) && lives[n].resetCall < upper; n++ {
		floor := 0
		if n == first {
			floor = lower // later lives are promised nothing
		}
		err := lives[n].allows(v, h.g.Capacity(i), floor, upper)
		if err == nil {
			return nil
		}
		errs = errors.Join(errs, fmt.Errorf("not as after reset %d of the zone: %w", n, err))
	}
	return errs
}

// allows says whether v may be what a power cut leaves of this life.
func (l *life) allows(v *view, capacity uint64, lower, upper int) error {
	least := l.end(lower)
	if v.written < least {
		return fmt.Errorf("a flush has covered %d sectors", least)
	}
	ends := v.written == 0
	want := make([]rig.Stamp, v.written)
	for _, w := range l.writes {
		ends = ends || w.at+w.n == v.written
		for k := uint64(0); k < w.n && w.at+k < v.written; k++ {
			if w.call >= upper {
				return fmt.Errorf("sectors from %d on were sent after the power went", w.at)
			}
			want[w.at+k] = rig.Stamp{ID: w.id, Index: k}
		}
	}
	for at, s := range v.sectors {
		switch {
		case uint64(at) >= v.written && s != rig.Stamp{}:
			return fmt.Errorf("sector %d above the write pointer is %v", at, s)
		case uint64(at) < v.written && s != want[at]:
			return fmt.Errorf("sector %d below the write pointer is %v, and %v was written", at, s, want[at])
		}
	}
	if !ends {
		return errors.New("no write ends there")
	}
	full := v.state == driver.ZoneFull
	switch finished := l.finishCall < upper; {
	case l.finishRet < lower && !full:
		return errors.New("a flush has covered its finish")
	case full && v.written == capacity: // filled up
	case full && (!finished || v.written != l.end(never)):
		return fmt.Errorf("nobody finished it with %d sectors written", v.written)
	case full:
	case v.state == driver.ZoneEmpty && v.written == 0:
	case v.state == driver.ZoneClosed && v.written > 0 && v.written < capacity:
	default:
		return errors.New("no zone is like that after a power cut")
	}
	return nil
}

// judgeConventional: each sector is as it was promised, or as a later write made
// it. No two writes of a conventional zone are in flight at a time.
func judgeConventional(l *life, v *view, lower, upper int) error {
	if v.state != driver.ZoneNotWP {
		return errors.New("it is a conventional zone")
	}
	allowed := make([][]rig.Stamp, len(v.sectors))
	for i := range allowed {
		allowed[i] = []rig.Stamp{{}}
	}
	for _, w := range l.writes {
		for k := uint64(0); k < w.n && w.call < upper; k++ {
			at := w.at + k
			if w.ret < lower {
				allowed[at] = allowed[at][:0]
			}
			allowed[at] = append(allowed[at], rig.Stamp{ID: w.id, Index: k})
		}
	}
	for at, s := range v.sectors {
		ok := false
		for _, a := range allowed[at] {
			ok = ok || a == s
		}
		if !ok {
			return fmt.Errorf("sector %d is %v, and may be one of %v", at, s, allowed[at])
		}
	}
	return nil
}
