package vhostuser

import (
	"testing"

	"github.com/zvhost/zvhost/vhostuser/inflight"
)

const most = ^uint64(0)

// A front-end may store any number as the life of a ring. The ones behind it are others,
// and never 0, which would say that the record is of none.
func TestLivesComeToTheirEnd(t *testing.T) {
	r, err := inflight.New(1, 8)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	life := most - 1
	for range 4 {
		q := r.Ring(0)
		if _, heads, err := q.Begin(inflight.Start{Size: 8, Life: life}, 0); err != nil || len(heads) != 0 {
			t.Errorf("life %#x: %d in flight, %v", life, heads, err)
		}
		q.Take(3)
		if n := len(q.InFlight()); n != 1 || q.Life() != life {
			t.Errorf("life %#x: %d in flight, of life %#x", life, n, q.Life())
		}
		life = nextLife(life)
	}
	// A message that ended a life may have been cut off behind that: the ring ran.
	s := &Session{record: r, rings: make([]ring, 1)}
	for _, life := range []uint64{1, most - 1, most} {
		if _, _, err := r.Ring(0).Begin(inflight.Start{Size: 8, Life: life}, 0); err != nil {
			t.Fatal(err)
		}
		for _, ran := range []bool{true, true, false} {
			if s.state.rings[0].life = life; s.ran(0) != ran {
				t.Errorf("the record is of life %#x: ran in life %#x: %v", r.Ring(0).Life(), life, !ran)
			}
			life = nextLife(life)
		}
	}
}
