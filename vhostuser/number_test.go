package vhostuser

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

const most = ^uint64(0)

// A front-end may store any number as the life of a ring. The ones behind it are others,
// and never 0, which would say that the record is of none.
func TestLivesComeToTheirEnd(t *testing.T) {
	r, err := NewRecord(1, 8)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	life := most - 1
	for range 4 {
		q := r.Ring(0)
		if _, heads, err := q.Begin(RingStart{Size: 8, Life: life}, 0); err != nil || len(heads) != 0 {
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
		if _, _, err := r.Ring(0).Begin(RingStart{Size: 8, Life: life}, 0); err != nil {
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

// Commits are numbered from the beginning again behind the last number: the newest one
// counts all the same.
func TestCommitsComeToTheirEnd(t *testing.T) {
	j, err := newJournal()
	if err != nil {
		t.Fatal(err)
	}
	j.gen = most - 3
	for i := range byte(8) {
		if err := j.commit([]byte{i}); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.FcntlInt(uintptr(j.file.Int()), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		next, kept, err := openJournal(foreign.NewFD(fd))
		if err != nil {
			t.Fatalf("commit %#x: %v", j.gen, err)
		}
		if len(kept) != 1 || kept[0] != i || next.gen != j.gen {
			t.Errorf("commit %#x: the next process finds %d, number %#x", j.gen, kept, next.gen)
		}
		if err := j.close(); err != nil {
			t.Fatal(err)
		}
		j = next
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
}

// Descriptors that are kept have ids of their own, never 0, whatever the ids are that a
// store gave back.
func TestIDsComeToTheirEnd(t *testing.T) {
	k := &keeper{lastID: most - 2, names: map[uint64]*foreign.FD{1: {}, 2: {}}}
	var got []uint64
	for range 4 {
		id := k.newID()
		k.names[id] = new(foreign.FD)
		got = append(got, id)
	}
	if want := []uint64{most - 1, most, 3, 4}; !slices.Equal(got, want) {
		t.Errorf("ids %#x, want %#x", got, want)
	}
}
