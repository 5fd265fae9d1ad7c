package backend

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
)

// The list is what a slice is after the same operations, read from either end.
func TestWritesInFlight(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		var l writesInFlight
		var model []*zonedRequest
		for range rnd.IntN(40) {
			r := zonedOf(new(disk.Request))
			at := 0
			if len(model) > 0 {
				at = rnd.IntN(len(model))
			}
			switch op := rnd.IntN(4); {
			case op == 0 || len(model) == 0:
				l.addLocked(r)
				model = append(model, r)
			case op == 1:
				var prev *zonedRequest
				if at > 0 {
					prev = model[at-1]
				}
				l.insertLocked(prev, r)
				model = slices.Insert(model, at, r)
			case op == 2:
				l.removeLocked(model[at])
				model = slices.Delete(model, at, at+1)
			default:
				l.replaceLocked(model[at], r)
				model[at] = r
			}
			var forth, back []*zonedRequest
			for r := l.head; r != nil; r = r.next {
				forth = append(forth, r)
			}
			for r := l.tail; r != nil; r = r.prev {
				back = append(back, r)
			}
			slices.Reverse(back)
			if !slices.Equal(forth, model) || !slices.Equal(back, model) || l.emptyLocked() != (len(model) == 0) {
				t.Fatalf("%d forth and %d back, want %d", len(forth), len(back), len(model))
			}
		}
	}
}
