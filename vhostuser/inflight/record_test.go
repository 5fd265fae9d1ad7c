package inflight

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/zvhost/zvhost/internal/foreign"
)

// again is the record as another process opens it.
func (r *Record) again(t interface{ Fatal(...any) }) *Record {
	fd, err := unix.FcntlInt(uintptr(r.file.Int()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := Open(foreign.NewFD(fd), 0, r.Rings(), r.size)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Whenever a process dies, the next one finds in flight what was taken and not shown
// to the driver, in the order in which it was taken.
func TestRecordAfterADeath(t *testing.T) {
	const size = 8
	rapid.Check(t, func(t *rapid.T) {
		r, err := New(2, 16)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Close() }()
		used := uint16(rapid.IntRange(0, 65535).Draw(t, "used"))
		ring := Start{Size: size, Base: uint32(used), Life: 7}
		q := r.Ring(1)
		if base, heads, err := q.Begin(ring, used); err != nil || base != used || len(heads) != 0 {
			t.Fatal(base, heads, err)
		}
		var flight, pushed []uint16 // taken; of these, pushed and not published
		free := []uint16{0, 1, 2, 3, 4, 5, 6, 7}
		marks := map[uint16]uint64{}
		next := used
		die := func() {
			n := r.again(t)
			_ = r.Close()
			r, q = n, n.Ring(1)
			if got := len(q.InFlight()); got < len(flight) {
				t.Fatalf("%d in flight before the used index is known, but there are %d", got, len(flight))
			}
			base, heads, err := q.Begin(ring, used)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(heads, flight) || base != next {
				t.Fatalf("%d in flight at %d, want %d at %d", heads, base, flight, next)
			}
			for _, h := range flight {
				if m := q.Mark(h); m[0] != marks[h] {
					t.Fatalf("the mark of %d is %d, want %d", h, m[0], marks[h])
				}
			}
			pushed = nil
		}
		publish := func() {
			for _, h := range pushed {
				i := slices.Index(flight, h)
				flight = slices.Delete(flight, i, i+1)
				free = append(free, h)
			}
			used += uint16(len(pushed))
			pushed = nil
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0, 1:
				if len(free) == 0 {
					continue
				}
				i := rapid.IntRange(0, len(free)-1).Draw(t, "free")
				h := free[i]
				free = slices.Delete(free, i, i+1)
				m := q.Take(h)
				marks[h] = uint64(rapid.IntRange(1, 1000).Draw(t, "mark"))
				m[0] = marks[h]
				flight = append(flight, h)
				next++
			case 2:
				if len(flight) == len(pushed) {
					continue
				}
				h := flight[rapid.IntRange(0, len(flight)-1).Draw(t, "head")]
				if slices.Contains(pushed, h) {
					continue
				}
				q.Push(h)
				pushed = append(pushed, h)
			case 3:
				publish()
				if rapid.Bool().Draw(t, "dies before it notes that") {
					die()
					continue
				}
				q.Published()
			default:
				die()
			}
		}
		// Another life of the ring: nothing is in flight.
		ring.Life, ring.Base = 8, 3
		if base, heads, err := q.Begin(ring, 1); err != nil || base != 3 || len(heads) != 0 || len(q.InFlight()) != 0 {
			t.Fatal(base, heads, err)
		}
		q.Take(5)
		n := r.again(t)
		_ = r.Close()
		r = n
		if base, heads, err := r.Ring(1).Begin(ring, 1); err != nil || base != 4 || !slices.Equal(heads, []uint16{5}) {
			t.Fatal(base, heads, err)
		}
	})
}

// What a front-end may have written there costs the ring, and no more.
func TestHostileRecord(t *testing.T) {
	ring := Start{Size: 8, Life: 7}
	for words, spoil := range map[string]func(q *Ring){
		"of version 2":                    func(q *Ring) { q.words[wordHead] = q.words[wordHead]&^0xffff | 2 },
		"a ring of 4 descriptors":         func(q *Ring) { q.words[wordHead] = 1 | 4<<16 },
		"used index is 0, 65531 ahead of": func(q *Ring) { q.words[wordHead] = 1 | 8<<16 | 5<<48 },
		"names descriptor 9":              func(q *Ring) { q.words[wordHead] = 1 | 8<<16 | 9<<32 | 0xffff<<48 },
	} {
		r, err := New(1, 8)
		if err != nil {
			t.Fatal(err)
		}
		q := r.Ring(0)
		if _, _, err := q.Begin(ring, 0); err != nil {
			t.Fatal(err)
		}
		spoil(q)
		q.InFlight()
		if _, _, err := q.Begin(ring, 0); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want %q", err, words)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	r, err := New(1, 8)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if _, _, err := r.Ring(0).Begin(Start{Size: 16, Life: 1}, 0); err == nil || !strings.Contains(err.Error(), "rings of 8") {
		t.Error(err)
	}
	for i := range r.Ring(0).words {
		r.Ring(0).words[i] = 1<<64 - 1
	}
	r.Ring(0).InFlight()
}

// Of huge pages one can be taken away, and there may be no other: an access faults then,
// as one to memory that has shrunk.
func TestRecordInHugePages(t *testing.T) {
	huge, err := unix.MemfdCreate("huge", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_HUGETLB)
	if err != nil {
		return // this machine has none
	}
	if err := unix.Ftruncate(huge, 2<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(huge), unix.F_ADD_SEALS, recordSeals); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(foreign.NewFD(huge), 0, 2, 64); err == nil || !strings.Contains(err.Error(), ErrForeign.Error()) {
		t.Errorf("huge pages: %v", err)
	}
}

// A record in a file of the daemon's own: what one process has written, the next one finds.
func TestOpenOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record")
	open := func(queues int, size uint16) (*Record, error) {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return OpenOwn(foreign.NewFD(fd), queues, size)
	}
	r, err := open(2, 16)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Ring(1).Begin(Start{Size: 16, Life: 3}, 0); err != nil {
		t.Fatal(err)
	}
	r.Ring(1).Take(5)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if r, err = open(2, 16); err != nil {
		t.Fatal(err)
	}
	_, heads, err := r.Ring(1).Begin(Start{Size: 16, Life: 3}, 0)
	if err != nil || len(heads) != 1 || heads[0] != 5 {
		t.Errorf("%v, %v", heads, err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenOwn(foreign.NewFD(fd), 2, 16); err == nil {
		t.Error("a file that cannot be written to is taken")
	}
}
