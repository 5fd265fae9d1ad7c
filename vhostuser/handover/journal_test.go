package handover

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

const lastNumber = ^uint64(0)

// dup is another descriptor of a file.
func dup(t *testing.T, f *foreign.FD) *foreign.FD {
	t.Helper()
	g, err := f.Dup()
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// What is committed last is what the next process finds. A commit that was cut off by the
// death of its process leaves the one before it, and a journal of another version is left to
// a process that knows it.
func TestJournalOfADeadProcess(t *testing.T) {
	j, err := NewJournal()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = j.Close() }()
	find := func() (string, error) {
		next, state, err := OpenJournal(dup(t, j.file))
		if err != nil {
			return "", err
		}
		defer func() { _ = next.Close() }()
		return string(state), nil
	}
	for _, state := range []string{"first", "second", "third"} {
		if err := j.Commit([]byte(state)); err != nil {
			t.Fatal(err)
		}
		if got, err := find(); got != state || err != nil {
			t.Errorf("the next process finds %q, %v, want %q", got, err, state)
		}
	}
	s := j.slot(j.now)
	s[slotState] ^= 1
	if got, err := find(); got != "second" || err != nil {
		t.Errorf("with a third state that was cut off it finds %q, %v", got, err)
	}
	s[slotState] ^= 1
	binary.LittleEndian.PutUint32(s[4:], journalVersion+1)
	binary.LittleEndian.PutUint32(s[slotSum:], slotCheck(s, uint32(len("third"))))
	if _, err := find(); !errors.As(err, new(UnfitError)) || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("of another version: %v", err)
	}
	clear(j.mem)
	if _, err := find(); err == nil || errors.As(err, new(UnfitError)) || !strings.Contains(err.Error(), "not one that this zvhost") {
		t.Errorf("without a commit: %v", err)
	}
	if err := unix.Ftruncate(j.file.Int(), 4096); err != nil {
		t.Fatal(err)
	}
	if _, err := find(); !errors.As(err, new(UnfitError)) {
		t.Errorf("of another size: %v", err)
	}
	if err := j.Commit(make([]byte, slotBytes)); err == nil {
		t.Error("a state is larger than its slot")
	}
}

// Commits are numbered from the beginning again behind the last number: the newest one
// counts all the same.
func TestCommitsComeToTheirEnd(t *testing.T) {
	j, err := NewJournal()
	if err != nil {
		t.Fatal(err)
	}
	j.gen = lastNumber - 3
	for i := range byte(8) {
		if err := j.Commit([]byte{i}); err != nil {
			t.Fatal(err)
		}
		next, state, err := OpenJournal(dup(t, j.file))
		if err != nil {
			t.Fatalf("commit %#x: %v", j.gen, err)
		}
		if len(state) != 1 || state[0] != i || next.gen != j.gen {
			t.Errorf("commit %#x: the next process finds %d, number %#x", j.gen, state, next.gen)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j = next
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// Descriptors that are stored have numbers of their own, never 0, whatever the numbers are that a
// store gave back.
func TestIDsComeToTheirEnd(t *testing.T) {
	k := &Saver{last: lastNumber - 2, files: map[uint64]*foreign.FD{1: {}, 2: {}}}
	var got []uint64
	for range 4 {
		id := k.number()
		k.files[id] = new(foreign.FD)
		got = append(got, id)
	}
	if want := []uint64{lastNumber - 1, lastNumber, 3, 4}; !slices.Equal(got, want) {
		t.Errorf("ids %#x, want %#x", got, want)
	}
}

// The same of the journal that it stands in: what is damaged costs the commit, and both of
// them the session.
func TestKeptJournalIsChecked(t *testing.T) {
	for at := 0; at < 24; at++ {
		for both := range 2 {
			j, err := NewJournal()
			if err != nil {
				t.Fatal(err)
			}
			for i := range byte(2) {
				if err := j.Commit([]byte{'a', i}); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 2 {
				if i == j.now || both == 1 {
					j.slot(i)[at] ^= 0xff
				}
			}
			next, state, err := OpenJournal(dup(t, j.file))
			switch {
			case both == 1 && err == nil:
				t.Errorf("byte %d of both slots is damaged, and %q is taken", at, state)
			case both == 0 && (err != nil || string(state) != "a\x00"):
				t.Errorf("byte %d of the newer slot is damaged: %q, %v", at, state, err)
			}
			if err == nil {
				err = next.Close()
			} else {
				err = nil
			}
			if err := errors.Join(err, j.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
}
