package backend

import (
	"errors"
	"sync"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image"
)

// This file has what the tests put in the place of a good disk: a store that
// fails on demand, an engine that holds and breaks I/O, a kill -9 and a power
// cut.

// A storeCall is one change that an image makes to its file.
type storeCall struct {
	op     string // "sync", "stable" or "wipe"
	off, n int64
}

// faultStore stands between an image and its file. before may refuse a call,
// after may fail one that was carried out.
type faultStore struct {
	under image.Store

	mu            sync.Mutex
	dead          bool
	before, after func(storeCall) error
	calls         []storeCall
}

var errDead = errors.New("the daemon was killed")

func (s *faultStore) do(c storeCall, run func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return errDead
	}
	s.calls = append(s.calls, c)
	if s.before != nil {
		if err := s.before(c); err != nil {
			return err
		}
	}
	err := run()
	if err == nil && s.after != nil {
		err = s.after(c)
	}
	return err
}

func (s *faultStore) Sync() error {
	return s.do(storeCall{op: "sync"}, s.under.Sync)
}

func (s *faultStore) WriteStable(b []byte, off int64) error {
	return s.do(storeCall{"stable", off, int64(len(b))}, func() error { return s.under.WriteStable(b, off) })
}

func (s *faultStore) Wipe(off, n int64) error {
	return s.do(storeCall{"wipe", off, n}, func() error { return s.under.Wipe(off, n) })
}

// refuse makes calls fail before they do anything; nil makes all well again.
func (s *faultStore) refuse(f func(storeCall) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = f
}

// seen are the calls since the last time.
func (s *faultStore) seen() []storeCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

// failing refuses the calls named op with err.
func failing(op string, err error) func(storeCall) error {
	return func(c storeCall) error {
		if c.op == op {
			return err
		}
		return nil
	}
}

// openFaulty opens the image at path over a faultStore.
func openFaulty(t disktest.TB, path string) (*zoned, *faultStore) {
	t.Helper()
	fs := new(faultStore)
	d, err := openZonedOver(path, disk.Options{}, fs.over)
	if err != nil {
		t.Fatal(err)
	}
	return d, fs
}

func (s *faultStore) over(under image.Store) image.Store {
	s.under = under
	return s
}

// kill ends d as kill -9 does: nothing reaches the file any more, and what is
// in memory is gone. Pages that were written stay in the kernel's cache.
func kill(t disktest.TB, d *zoned, fs *faultStore) {
	t.Helper()
	fs.mu.Lock()
	fs.dead = true
	fs.mu.Unlock()
	d.com.stop()
	if err := d.img.Release(); err != nil {
		t.Fatal(err)
	}
}
