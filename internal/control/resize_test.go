package control

import (
	"errors"
	"testing"
)

// What a daemon says of a new size reaches whoever asked, and the log where there
// is one.
func TestResize(t *testing.T) {
	s := NewServer(nil, nil)
	if a := s.answer([]byte(`{"command":"resize"}`)); a.Error != "this disk keeps its size" {
		t.Errorf("without Grow: %+v", a)
	}
	var notes []string
	s = NewServer(nil, func(line string) { notes = append(notes, line) })
	for _, c := range []struct {
		from, to uint64
		told     bool
		err      error
		want     Answer
	}{
		{8, 16, true, nil, Answer{Was: 8, Sectors: 16, Told: true}},
		{16, 16, false, nil, Answer{Was: 16, Sectors: 16}},
		{16, 0, false, errors.New("it has shrunk"), Answer{Error: "it has shrunk"}},
	} {
		s.Grow = func() (uint64, uint64, bool, error) { return c.from, c.to, c.told, c.err }
		a := s.answer([]byte(`{"command":"resize"}`))
		if c.err == nil && (a.Was != c.want.Was || a.Sectors != c.want.Sectors || a.Told != c.want.Told) || a.Error != c.want.Error {
			t.Errorf("%+v", a)
		}
	}
	if len(notes) != 0 { // the disk says so itself, and not as a warning
		t.Errorf("notes %q", notes)
	}
}
