package main

import (
	"strings"
	"testing"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/virtio/driver"
)

// oneZone is a disk of a zone with room for 16 sectors, with a history:
//
//	2-3    write 1 of 4 sectors      4-9   append 2 of 4 sectors, at 4
//	5-6    flush                     7-8   append 3 of 4 sectors, at 8
//	10-11  flush
//	12-13  finish                    14-15 flush
//	16-17  reset                     18-19 write 4 of 4 sectors
//	20-21  flush
func oneZone() *history {
	h := newHistory(&rig.Geometry{Size: 16, Zone: 16, Cap: 16, Block: 1})
	old := h.zones[0][0]
	old.writes = []*write{
		{id: 1, at: 0, n: 4, call: 2, ret: 3},
		{id: 2, at: 4, n: 4, call: 4, ret: 9},
		{id: 3, at: 8, n: 4, call: 7, ret: 8},
	}
	old.finishCall, old.finishRet = 12, 13
	l := newLife(16, 17)
	l.writes = []*write{{id: 4, at: 0, n: 4, call: 18, ret: 19}}
	h.zones[0] = append(h.zones[0], l)
	h.promises = []promise{{5, 6}, {10, 11}, {14, 15}, {20, 21}}
	return h
}

// zone makes a view with the content of writes, one after the other.
func zone(state uint8, ids ...uint64) []view {
	v := view{state: state, written: uint64(len(ids)) * 4, sectors: make([]rig.Stamp, 16)}
	for i, id := range ids {
		for k := range uint64(4) {
			if id != 0 {
				v.sectors[uint64(i)*4+k] = rig.Stamp{ID: id, Index: k}
			}
		}
	}
	return []view{v}
}

func TestJudge(t *testing.T) {
	const empty, closed, full = driver.ZoneEmpty, driver.ZoneClosed, driver.ZoneFull
	above := zone(closed, 1)
	above[0].sectors[4] = rig.Stamp{ID: 2, Index: 0}
	middle := zone(closed, 1)
	middle[0].written, middle[0].sectors[3] = 3, rig.Stamp{}
	for name, c := range map[string]struct {
		promises int
		views    []view
		want     string // part of the error; none if ""
	}{
		"nothing promised, nothing there":       {0, zone(empty), ""},
		"nothing promised, the first write":     {0, zone(closed, 1), ""},
		"more than was sent":                    {0, zone(closed, 1, 2, 3), "sent after the power went"},
		"data left above the pointer":           {0, above, "above the write pointer"},
		"a pointer inside a write":              {0, middle, "no write ends there"},
		"open after a power cut":                {0, zone(driver.ZoneImpOpen, 1), "no zone is like that"},
		"empty, and it has data":                {0, zone(empty, 1), "no zone is like that"},
		"what a flush covered":                  {1, zone(closed, 1), ""},
		"and more":                              {1, zone(closed, 1, 2, 3), ""},
		"a flushed write is lost":               {1, zone(empty), "a flush has covered 4 sectors"},
		"a hole below the pointer":              {1, zone(closed, 1, 0, 3), "is zeroes"},
		"another write's data":                  {1, zone(closed, 1, 3), "was written"},
		"both appends, the second answered":     {2, zone(closed, 1, 2, 3), ""},
		"the first append alone":                {2, zone(closed, 1, 2), "a flush has covered 12 sectors"},
		"finished, not yet flushed":             {2, zone(full, 1, 2, 3), ""},
		"a finish before it was sent":           {1, zone(full, 1, 2, 3), "nobody finished it"},
		"a finish with less than was there":     {2, zone(full, 1, 2), "covered"},
		"a flushed finish":                      {3, zone(full, 1, 2, 3), ""},
		"a flushed finish undone":               {3, zone(closed, 1, 2, 3), "a flush has covered its finish"},
		"reset, not yet flushed":                {3, zone(empty), ""},
		"reset and written anew":                {3, zone(closed, 4), ""},
		"a flushed reset undone":                {4, zone(full, 1, 2, 3), "after reset 1"},
		"a flushed reset, and the write is not": {4, zone(empty), "a flush has covered 4"},
		"new pointer, old data":                 {4, zone(closed, 1), "is sector 0 of request 1"},
		"all of it":                             {4, zone(closed, 4), ""},
	} {
		h := oneZone()
		lower, upper := h.window(c.promises)
		err := h.judge(c.views, lower, upper)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
	}
}

func TestJudgeConventional(t *testing.T) {
	h := newHistory(&rig.Geometry{Size: 16, Zone: 16, Cap: 16, Block: 1, Conventional: 1})
	h.zones[0][0].writes = []*write{
		{id: 1, at: 0, n: 8, call: 2, ret: 3},
		{id: 2, at: 4, n: 8, call: 7, ret: 8},
	}
	h.promises = []promise{{5, 6}, {9, 10}}
	const nw = driver.ZoneNotWP
	shifted := zone(nw, 1, 0, 0)
	for k := range uint64(4) {
		shifted[0].sectors[4+k] = rig.Stamp{ID: 1, Index: 4 + k}
	}
	part := zone(nw, 1, 0, 0)
	for k := range uint64(4) {
		part[0].sectors[4+k] = rig.Stamp{ID: 1, Index: 4 + k}
	}
	part[0].sectors[5] = rig.Stamp{ID: 2, Index: 1}
	whole := zone(nw, 1, 2, 0)
	for k := range uint64(4) {
		whole[0].sectors[8+k] = rig.Stamp{ID: 2, Index: 4 + k}
	}
	for name, c := range map[string]struct {
		promises int
		views    []view
		good     bool
	}{
		"nothing promised":                {0, zone(nw, 0), true},
		"the first write":                 {1, shifted, true},
		"the second in part":              {1, part, true},
		"the first is lost":               {1, zone(nw, 0), false},
		"both":                            {2, whole, true},
		"the second in part, but flushed": {2, part, false},
		"no conventional zone any more":   {0, zone(driver.ZoneEmpty), false},
		"what was not sent yet":           {0, whole, false},
	} {
		for i := range c.views {
			c.views[i].written = 0
		}
		lower, upper := h.window(c.promises)
		if err := h.judge(c.views, lower, upper); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The limit on active zones holds after a power cut.
func TestJudgeLimits(t *testing.T) {
	h := newHistory(&rig.Geometry{Size: 32, Zone: 16, Cap: 16, Block: 1, MaxActive: 1})
	var views []view
	for i := range h.zones {
		h.zones[i][0].writes = []*write{{id: uint64(i + 1), at: 0, n: 4, call: 2, ret: 3}}
		views = append(views, zone(driver.ZoneClosed, uint64(i+1))...)
	}
	if err := h.judge(views, 0, never); err == nil || !strings.Contains(err.Error(), "2 zones are active") {
		t.Error(err)
	}
}
