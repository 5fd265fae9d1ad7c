package backend

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// The list is what a slice is after the same operations.
func TestOpenOrder(t *testing.T) {
	const zones = 12
	rnd := rand.New(rand.NewPCG(1, 1))
	o := newOpenOrder(zones)
	var model []int
	for range 20_000 {
		i := rnd.IntN(zones)
		at := slices.Index(model, i)
		if at < 0 {
			o.addLocked(i)
			model = append(model, i)
		} else {
			o.removeLocked(i)
			model = slices.Delete(model, at, at+1)
		}
		var got []int
		for n := o.oldestLocked(); n >= 0; n = o.afterLocked(n) {
			got = append(got, n)
		}
		if !slices.Equal(got, model) {
			t.Fatalf("%v, want %v", got, model)
		}
	}
}
