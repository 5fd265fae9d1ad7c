package inflight

import (
	"slices"
	"testing"
)

// The numbers of requests in flight stand in memory that a front-end can write to. From
// any of them on the next process, and the one behind it, find requests in the order in
// which they came.
func TestOrderComesToItsEnd(t *testing.T) {
	for _, packed := range []bool{false, true} {
		for _, far := range []uint64{0, lateCounter - 3, lateCounter - 1, lateCounter, ^uint64(0) - 2} {
			r, err := New(1, 8)
			if err != nil {
				t.Fatal(err)
			}
			ring := Start{Size: 8, Life: 1}
			begin := func() (heads []uint16) {
				t.Helper()
				if packed {
					_, heads, err = r.Ring(0).BeginPacked(ring, func(uint16) bool { return false })
				} else {
					_, heads, err = r.Ring(0).Begin(ring, 0)
				}
				if err != nil {
					t.Fatal(err)
				}
				return heads
			}
			take := func(head uint16) {
				if packed {
					r.Ring(0).Hold(head, [][2]uint64{{uint64(head), 1}})
				}
				r.Ring(0).Take(head)
			}
			die := func() {
				n := r.again(t)
				if err := r.Close(); err != nil {
					t.Fatal(err)
				}
				r = n
			}
			begin()
			want := []uint16{5, 1, 6}
			for i, head := range want {
				take(head)
				r.Ring(0).store(wordDesc+2*int(head)+1, far+uint64(i))
			}
			for _, head := range []uint16{7, 0, 3} {
				die()
				if heads := begin(); !slices.Equal(heads, want) {
					t.Errorf("packed %v, from %#x: %d are in flight, want %d", packed, far, heads, want)
				}
				take(head)
				want = append(want, head)
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
