package backend

import (
	"encoding/binary"
	"errors"
	"os"
	"sync"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/zone"
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

// edit changes the image at path behind everybody's back.
func edit(t disktest.TB, path string, change func(f *os.File, l *format.Layout)) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := format.ReadSuper(f)
	if err != nil {
		t.Fatal(err)
	}
	change(f, l)
}

func patch(t disktest.TB, f *os.File, b []byte, off int64) {
	t.Helper()
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// powerCut makes the image at path look as after a reboot that came without
// warning: another boot id, and a live table of which nobody knows what reached
// the disk.
func powerCut(t disktest.TB, path string) {
	t.Helper()
	edit(t, path, func(f *os.File, l *format.Layout) {
		for i := range int64(2) {
			b := make([]byte, format.BlockBytes)
			if _, err := f.ReadAt(b, format.StateOff+i*format.BlockBytes); err != nil {
				t.Fatal(err)
			}
			s, err := format.DecodeState(b, l.UUID)
			if err != nil {
				continue
			}
			s.Where.Boot[3] ^= 0x55
			patch(t, f, s.Encode(l.UUID), format.StateOff+i*format.BlockBytes)
		}
		if s, _, err := format.ReadState(f, l.UUID); err != nil || s.Clean {
			return // the live table was synced
		}
		live := make([]byte, 8*l.Zones())
		for i := range l.Zones() {
			// As if every zone had been filled and that alone had reached the disk.
			w := zone.Pack(i, zone.Full, l.Capacity(i))
			if l.Conventional(i) {
				w = zone.Pack(i, zone.NotWP, 0)
			}
			binary.LittleEndian.PutUint64(live[8*i:], uint64(w))
		}
		patch(t, f, live, format.LiveOff)
	})
}

// writeCommitted makes words the newest committed table, behind blocks with these numbers.
func writeCommitted(t disktest.TB, f *os.File, l *format.Layout, words []zone.Entry, seqs []uint64) {
	t.Helper()
	for n, seq := range seqs {
		b := make([]byte, format.BlockBytes)
		format.EncodeBlock(b, n, seq+1, words[n*format.BlockZones:min((n+1)*format.BlockZones, len(words))])
		patch(t, f, b, l.CopyOff(n, seq+1))
	}
}

// setStates puts zones of a clean image into states that no request leads to.
func setStates(t disktest.TB, path string, zones map[int]zone.State) {
	t.Helper()
	edit(t, path, func(f *os.File, l *format.Layout) {
		words, seqs, _, err := format.ReadCommitted(f, l)
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range zones {
			words[i] = zone.Pack(i, s, words[i].Written())
			live := make([]byte, 8)
			binary.LittleEndian.PutUint64(live, uint64(words[i]))
			patch(t, f, live, format.LiveOff+8*int64(i))
		}
		writeCommitted(t, f, l, words, seqs)
	})
}

// rawZone is what stands in the file for zone i.
func rawZone(t disktest.TB, path string, i int) (data []byte) {
	t.Helper()
	edit(t, path, func(f *os.File, l *format.Layout) {
		data = make([]byte, l.Length(i)<<disk.SectorShift)
		if _, err := f.ReadAt(data, l.Offset(uint64(i)*l.ZoneSectors)); err != nil {
			t.Fatal(err)
		}
	})
	return data
}
