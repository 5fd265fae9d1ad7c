package powercut

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
)

const (
	// SectorBytes is what a disk writes whole or not at all.
	SectorBytes = 512
	// BlockBytes is what a host writes back at a time: its page size.
	BlockBytes = 4096

	blockSectors = BlockBytes / SectorBytes
	wordBytes    = 8 // what a processor stores whole
)

// A File is the history of one file since its parts were last durable. It is
// for one goroutine at a time. Offsets and lengths are in bytes, not negative.
type File struct {
	blocks []*block // by number; nil: zeroes since ever
	sizes  []size   // the first is durable
	now    uint64   // counts what happens
}

type block [blockSectors]sector

// A sector is its versions, oldest first; the first is durable, the others are
// what it has been since. None at all stands for zeroes.
type sector struct {
	versions []version
	// mapped says that it is changed through a mapping, word by word, and so can
	// be torn anywhere between words.
	mapped bool
}

type version struct {
	at   uint64 // when it was written
	data []byte // nil: zeroes; never changed
}

type size struct {
	at    uint64
	bytes int64
}

// New is a file of the given size that holds zeroes, durably.
func New(bytes int64) *File {
	f := &File{sizes: []size{{0, bytes}}}
	f.grow(bytes)
	return f
}

func (f *File) grow(bytes int64) {
	if n := int((bytes + BlockBytes - 1) / BlockBytes); n > len(f.blocks) {
		f.blocks = append(f.blocks, make([]*block, n-len(f.blocks))...)
	}
}

func (f *File) tick() uint64 {
	f.now++
	return f.now
}

// Size is how long the file is, durable or not.
func (f *File) Size() int64 { return f.sizes[len(f.sizes)-1].bytes }

// Resize makes the file that long (ftruncate).
func (f *File) Resize(bytes int64) {
	f.grow(bytes)
	f.sizes = append(f.sizes, size{f.tick(), bytes})
}

// sector is sector number n, made if it has no history.
func (f *File) sector(n int64) *sector {
	b := &f.blocks[n/blockSectors]
	if *b == nil {
		*b = new(block)
	}
	return &(*b)[n%blockSectors]
}

func (s *sector) newest() []byte {
	if len(s.versions) == 0 {
		return nil
	}
	return s.versions[len(s.versions)-1].data
}

func (s *sector) push(at uint64, data []byte) {
	if len(s.versions) == 0 {
		s.versions = append(s.versions, version{})
	}
	s.versions = append(s.versions, version{at, data})
}

// Write is a write of whole sectors: b stands at off from now on, and may come
// to the disk from now on. b is copied.
func (f *File) Write(off int64, b []byte) {
	f.mustBeWhole(off, int64(len(b)))
	at, b := f.tick(), bytes.Clone(b)
	for n := off / SectorBytes; len(b) > 0; n, b = n+1, b[SectorBytes:] {
		f.sector(n).push(at, b[:SectorBytes:SectorBytes])
	}
}

// Zero makes n bytes from off on zeroes: a hole, or zeroes written.
func (f *File) Zero(off, n int64) {
	f.mustBeWhole(off, n)
	at := f.tick()
	for i := off / SectorBytes; i < (off+n)/SectorBytes; i++ {
		if b := f.blocks[i/blockSectors]; b == nil || b[i%blockSectors].newest() == nil && len(b[i%blockSectors].versions) < 2 {
			continue // zeroes it is, and nothing else is under way
		}
		f.sector(i).push(at, nil)
	}
}

// Observe says that b stands at off by now, in a part of the file that is
// changed through a mapping, as nobody tells when. What is as it was when it
// was last told of is no change.
func (f *File) Observe(off int64, b []byte) {
	f.mustBeWhole(off, int64(len(b)))
	at := f.tick()
	for n := off / SectorBytes; len(b) > 0; n, b = n+1, b[SectorBytes:] {
		s := f.sector(n)
		s.mapped = true
		if !bytes.Equal(whole(s.newest()), b[:SectorBytes]) {
			s.push(at, bytes.Clone(b[:SectorBytes]))
		}
	}
}

var zeroes [SectorBytes]byte

func whole(data []byte) []byte {
	if data == nil {
		return zeroes[:]
	}
	return data
}

// Durable makes n bytes from off on durable, as they are now, and nothing else:
// what a write with RWF_DSYNC does when it is done.
func (f *File) Durable(off, n int64) {
	f.mustBeWhole(off, n)
	for i := off / SectorBytes; i < (off+n)/SectorBytes; i++ {
		f.sector(i).settle(f.now)
	}
}

// Now is a moment for Synced: what happened until now is before it, what happens
// from now on is behind it.
func (f *File) Now() uint64 { return f.now }

// Synced makes durable what happened until the moment then: a sync that began
// then is done.
func (f *File) Synced(then uint64) {
	for _, b := range f.blocks {
		if b != nil {
			for i := range b {
				b[i].settle(then)
			}
		}
	}
	for len(f.sizes) > 1 && f.sizes[1].at <= then {
		f.sizes = f.sizes[1:]
	}
}

func (s *sector) settle(then uint64) {
	n := 0
	for n+1 < len(s.versions) && s.versions[n+1].at <= then {
		n++
	}
	s.versions = s.versions[n:]
}

// Cut is the file as a power cut now might leave it; f is as it was. Each block
// has its own luck; bounds are where another part of the file begins, in
// ascending order, and each part is more or less lucky as a whole, so that what
// is told of data comes through where the data does not, and the other way
// round.
func (f *File) Cut(rnd *rand.Rand, bounds ...int64) *File {
	left := New(f.sizes[rnd.IntN(len(f.sizes))].bytes)
	keep := luck(rnd)
	for n, b := range f.blocks[:min(len(f.blocks), len(left.blocks))] {
		for len(bounds) > 0 && int64(n)*BlockBytes >= bounds[0] {
			keep, bounds = luck(rnd), bounds[1:]
		}
		if b != nil {
			left.blocks[n] = b.cut(rnd, keep)
		}
	}
	left.clip()
	return left
}

// luck is how probable it is that a block is there as it was last written.
func luck(rnd *rand.Rand) float64 { return []float64{0, 0.1, 0.5, 0.9, 1}[rnd.IntN(5)] }

// cut is what is left of b.
func (b *block) cut(rnd *rand.Rand, keep float64) *block {
	var times []uint64 // since when there is something to lose
	for i := range b {
		for _, v := range b[i].versions[min(1, len(b[i].versions)):] {
			times = append(times, v.at)
		}
	}
	left := new(block)
	choose := func(s *sector) []byte { return s.newest() }
	if len(times) > 0 && rnd.Float64() >= keep {
		switch rnd.IntN(3) {
		case 0: // lost
			choose = func(s *sector) []byte { return s.at(0) }
		case 1: // as it was at some moment
			then := times[rnd.IntN(len(times))]
			choose = func(s *sector) []byte { return s.at(then) }
		case 2: // torn
			choose = func(s *sector) []byte { return s.torn(rnd) }
		}
	}
	for i := range b {
		if data := choose(&b[i]); data != nil {
			left[i].versions = []version{{0, data}}
		}
	}
	return left
}

// at is what the sector was at the moment then, or what is durable if that is
// later.
func (s *sector) at(then uint64) []byte {
	var data []byte
	for i, v := range s.versions {
		if i == 0 || v.at <= then {
			data = v.data
		}
	}
	return data
}

// torn is one of the sector's versions; or, if it is mapped, a word of this and
// a word of that one.
func (s *sector) torn(rnd *rand.Rand) []byte {
	switch {
	case len(s.versions) == 0:
		return nil
	case !s.mapped || len(s.versions) == 1:
		return s.versions[rnd.IntN(len(s.versions))].data
	}
	mix := make([]byte, SectorBytes)
	for at := 0; at < SectorBytes; at += wordBytes {
		copy(mix[at:at+wordBytes], whole(s.versions[rnd.IntN(len(s.versions))].data)[at:])
	}
	return mix
}

// clip makes zeroes of what stands behind the end of the file.
func (f *File) clip() {
	end := f.Size()
	if end%BlockBytes == 0 || len(f.blocks) == 0 || f.blocks[len(f.blocks)-1] == nil {
		return
	}
	b := f.blocks[len(f.blocks)-1]
	for i := range b {
		if at := int64(len(f.blocks)-1)*BlockBytes + int64(i)*SectorBytes; at >= end {
			b[i] = sector{}
		}
	}
}

// WriteTo writes what stands in the file by now to w, which is empty, and leaves
// holes where there are only zeroes. The caller sees to the size.
func (f *File) WriteTo(w io.WriterAt) error {
	var run []byte // blocks that stand side by side
	for n := 0; n <= len(f.blocks); n++ {
		if n < len(f.blocks) && f.blocks[n].hasData() {
			for i := range f.blocks[n] {
				run = append(run, whole(f.blocks[n][i].newest())...)
			}
			continue
		}
		if len(run) > 0 {
			if _, err := w.WriteAt(run, int64(n)*BlockBytes-int64(len(run))); err != nil {
				return err
			}
			run = run[:0]
		}
	}
	return nil
}

func (b *block) hasData() bool {
	if b == nil {
		return false
	}
	for i := range b {
		if b[i].newest() != nil {
			return true
		}
	}
	return false
}

// ReadAt is the file as it is now, durable or not (io.ReaderAt, of whole
// sectors).
func (f *File) ReadAt(b []byte, off int64) (int, error) {
	f.mustBeWhole(off, int64(len(b)))
	for at := 0; at < len(b); at += SectorBytes {
		n := (off + int64(at)) / SectorBytes
		var data []byte
		if blk := f.blocks[n/blockSectors]; blk != nil {
			data = blk[n%blockSectors].newest()
		}
		copy(b[at:], whole(data))
	}
	return len(b), nil
}

// mustBeWhole panics when a test tells of what cannot be: it is the test that is
// wrong then.
func (f *File) mustBeWhole(off, n int64) {
	if off < 0 || n < 0 || off%SectorBytes != 0 || n%SectorBytes != 0 || off+n > int64(len(f.blocks))*BlockBytes {
		panic(fmt.Sprintf("powercut: %d bytes at %d: not whole sectors of a file of %d bytes", n, off, f.Size()))
	}
}
