package main

import "github.com/zvhost/zvhost/integration/rig"

// never is the stamp of what has not happened.
const never = int(^uint(0) >> 1)

// A write is a write or append that was answered with OK, or is in flight.
// Stamps (call, ret) are positions in the history of all requests.
type write struct {
	id, at, n uint64 // sectors, from the zone's start
	call, ret int    // when it was sent, and answered
}

// A life of a zone is what happened between two resets. Nothing of the next one
// is sent before its reset is answered, and the reset not before everything of
// this one is.
type life struct {
	resetCall, resetRet   int // of the reset that began it, 0 for the first
	finishCall, finishRet int
	writes                []*write // as they were sent
}

func newLife(call, ret int) *life {
	return &life{resetCall: call, resetRet: ret, finishCall: never, finishRet: never}
}

// end is the highest end of the writes answered before stamp.
func (l *life) end(stamp int) (sectors uint64) {
	for _, w := range l.writes {
		if w.ret < stamp {
			sectors = max(sectors, w.at+w.n)
		}
	}
	return sectors
}

// A promise is a mark in the log: what was answered before the stamp covers is
// durable, and what is sent from the stamp after on comes behind the mark.
type promise struct{ covers, after int }

// A history is what a client has done to a disk and what it was told.
type history struct {
	g        *rig.Geometry
	zones    [][]*life // of a conventional zone the only one
	promises []promise
	clock    int // the last stamp
}

func newHistory(g *rig.Geometry) *history {
	h := &history{g: g, clock: 1}
	for range g.Zones() {
		h.zones = append(h.zones, []*life{newLife(0, 0)})
	}
	return h
}

func (h *history) tick() int {
	h.clock++
	return h.clock
}

// window is what a power cut may have left of the history when the first n
// promises were given: at least what was answered before lower, and nothing that
// was sent at upper or later.
func (h *history) window(n int) (lower, upper int) {
	upper = never
	for i, p := range h.promises {
		if i < n {
			lower = max(lower, p.covers)
		} else {
			upper = min(upper, p.after)
		}
	}
	return lower, upper
}
