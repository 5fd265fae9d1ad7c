package disktest

import (
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
)

// NoteInFlight is the note of a write in flight, as a daemon that died leaves it.
func NoteInFlight(sector, sectors uint64) *disk.Note {
	m := new(disk.Note)
	m.At(sector, sectors)
	return m
}

// Resume has a request go on from a note.
func (c *Client) Resume(r *disk.Request, m *disk.Note) error {
	c.T.Helper()
	r.Note = m
	c.Lane.Resume(c.Disk, r)
	c.Lane.Start()
	if got := c.Wait(); got != r {
		c.T.Fatalf("another request ended: %v", got.Op)
	}
	return r.Err
}

// WantNote checks how far the note says that its request came.
func WantNote(t *testing.T, m *disk.Note, what uint8) {
	t.Helper()
	if got := m.Load().What; got != what {
		t.Errorf("the note says %d, want %d", got, what)
	}
}

// NoteChanging is the note of a request that was about to carry op out on a zone when its
// daemon died.
func NoteChanging(op disk.Op, zone int) *disk.Note {
	m := new(disk.Note)
	m.Changing(op, zone)
	return m
}

// NoteChangingOneOf is the note of one that was about to reset a zone of its range number seg.
func NoteChangingOneOf(seg uint32, zone int) *disk.Note {
	m := new(disk.Note)
	m.ChangingOneOf(seg, zone)
	return m
}

// NoteDone is the note of a write that is done.
func NoteDone(sector, sectors uint64) *disk.Note {
	m := NoteInFlight(sector, sectors)
	m.Done(sector)
	return m
}

// NoteManaged is the note of a request that has carried out op on a zone.
func NoteManaged(op disk.Op, zone int) *disk.Note {
	m := new(disk.Note)
	m.Managed(op, zone)
	return m
}

// NotePast is the note of a request that has carried out what it does on zones up to this
// one of its range number seg.
func NotePast(seg uint32, zone int) *disk.Note {
	m := new(disk.Note)
	m.Past(seg, zone)
	return m
}

// NoteEmptying is the note of a close that was about to make the zone at sector empty.
func NoteEmptying(sector uint64) *disk.Note {
	m := new(disk.Note)
	m.Emptying(sector)
	return m
}
