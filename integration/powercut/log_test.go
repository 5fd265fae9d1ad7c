package main

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// A logged entry is one to make a log of: data is one byte a sector, repeated.
type logged struct {
	flags, sector uint64
	data          []byte
	mark          string
}

// makeLog writes a log as the kernel does.
func makeLog(entries []logged) *bytes.Reader {
	le := binary.LittleEndian
	b := make([]byte, sectorBytes)
	le.PutUint64(b, logMagic)
	le.PutUint64(b[8:], 1)
	le.PutUint64(b[16:], uint64(len(entries)))
	le.PutUint32(b[24:], sectorBytes)
	for _, e := range entries {
		head := make([]byte, sectorBytes)
		le.PutUint64(head, e.sector)
		le.PutUint64(head[8:], uint64(len(e.data)))
		le.PutUint64(head[16:], e.flags)
		le.PutUint64(head[24:], uint64(len(e.mark)))
		copy(head[32:], e.mark)
		b = append(b, head...)
		for _, c := range e.data {
			b = append(b, bytes.Repeat([]byte{c}, sectorBytes)...)
		}
	}
	return bytes.NewReader(b)
}

// sectorsOf are the first bytes of the first n sectors.
func sectorsOf(d disk, n int) []byte {
	out := make([]byte, n)
	for i := range out {
		if page := d[int64(i/8)]; page != nil {
			out[i] = page[i%8*sectorBytes]
		}
	}
	return out
}

var sampleLog = []logged{
	{sector: 0, data: []byte{1, 1, 1}},
	{flags: entryFlush},
	{flags: entryMark, mark: "p0"},
	{sector: 1, data: []byte{2}},
	{flags: entryFUA, sector: 9, data: []byte{3, 3}},
	{sector: 2, data: []byte{4, 4}},
	{flags: entryFlush},
	{sector: 0, data: []byte{5}},
}

func TestLogIsRead(t *testing.T) {
	entries, err := readLog(makeLog(sampleLog))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(sampleLog) || entries[2].mark != "p0" || entries[4].sector != 9 || entries[5].sectors != 2 || !entries[5].plain() || entries[4].plain() {
		t.Errorf("%+v", entries)
	}
	if _, err := readLog(bytes.NewReader(make([]byte, 4096))); err == nil {
		t.Error("zeroes are taken for a log")
	}
}

// What a flush covers is there and what was written through is there; of the
// rest each is there or not.
func TestPlay(t *testing.T) {
	log := makeLog(sampleLog)
	entries, err := readLog(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cut  cut
		want []byte
	}{
		{cut{at: 0, keep: 0}, []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
		{cut{at: 0, keep: 1}, []byte{1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0}},
		{cut{at: 2, keep: 0}, []byte{1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0}},
		{cut{at: 5, keep: 0}, []byte{1, 1, 1, 0, 0, 0, 0, 0, 0, 3, 3}},
		{cut{at: 5, keep: 1}, []byte{1, 2, 4, 4, 0, 0, 0, 0, 0, 3, 3}},
		{cut{at: 7, keep: 0}, []byte{1, 2, 4, 4, 0, 0, 0, 0, 0, 3, 3}},
		{cut{at: 7, keep: 1}, []byte{5, 2, 4, 4, 0, 0, 0, 0, 0, 3, 3}},
	} {
		p := &player{log: log, entries: entries, base: disk{}}
		d, err := p.play(&c.cut)
		if err != nil {
			t.Fatal(err)
		}
		if got := sectorsOf(d, len(c.want)); !bytes.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", &c.cut, got, c.want)
		}
	}
}

// One player makes one cut after the other: what one of them kept by chance is
// not there for the next.
func TestPlayInOrder(t *testing.T) {
	log := makeLog(sampleLog)
	entries, err := readLog(log)
	if err != nil {
		t.Fatal(err)
	}
	p := &player{log: log, entries: entries, base: disk{}}
	for _, c := range []struct {
		cut  cut
		want []byte
	}{
		{cut{at: 5, keep: 1, tear: 1, seed: 7}, nil},
		{cut{at: 5, keep: 0}, []byte{1, 1, 1, 0}},
		{cut{at: 7, keep: 1}, []byte{5, 2, 4, 4}},
		{cut{at: 7, keep: 0}, []byte{1, 2, 4, 4}},
	} {
		d, err := p.play(&c.cut)
		if err != nil {
			t.Fatal(err)
		}
		if got := sectorsOf(d, len(c.want)); !bytes.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", &c.cut, got, c.want)
		}
	}
}

// Torn writes are there in parts of one sector or of eight.
func TestTorn(t *testing.T) {
	log := makeLog([]logged{{sector: 0, data: bytes.Repeat([]byte{1}, 64)}})
	entries, err := readLog(log)
	if err != nil {
		t.Fatal(err)
	}
	parts := map[int]bool{}
	for seed := range uint64(50) {
		p := &player{log: log, entries: entries, base: disk{}}
		d, err := p.play(&cut{at: 0, keep: 1, tear: 1, seed: seed})
		if err != nil {
			t.Fatal(err)
		}
		got := sectorsOf(d, 64)
		part := 8
		for i := range got {
			if i%8 != 0 && got[i] != got[i-1] {
				part = 1
			}
		}
		parts[part] = true
	}
	if !parts[1] || !parts[8] {
		t.Errorf("only in parts of %v sectors", parts)
	}
}

// Cuts come in order and never before the first entry; one among unflushed
// writes is one among all of them.
func TestPickCuts(t *testing.T) {
	entries, err := readLog(makeLog(sampleLog))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for seed := range uint64(100) {
		last := 0
		for _, c := range pickCuts(entries, 2, 6, rand.New(rand.NewPCG(seed, 0))) {
			if c.at < max(2, last) {
				t.Fatalf("a cut at %d after one at %d", c.at, last)
			}
			last = c.at
			seen[c.at] = true
		}
	}
	if seen[3] || !seen[2] || !seen[5] || !seen[7] {
		t.Errorf("cuts at %v", seen)
	}
}

func TestDiskFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	d := disk{}
	d.write(bytes.Repeat([]byte{7}, 2*sectorBytes), 1<<20-1, all)
	if err := d.save(path, 1<<30); err != nil {
		t.Fatal(err)
	}
	back, err := readDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(back) != len(d) {
		t.Errorf("%d pages of %d", len(back), len(d))
	}
	for n, page := range d {
		if back[n] == nil || *back[n] != *page {
			t.Errorf("page %d is not what was saved", n)
		}
	}
	if st, err := os.Stat(path); err != nil || st.Size() != 1<<30 {
		t.Errorf("%v %v", st, err)
	}
	c := back.clone()
	c.write(make([]byte, sectorBytes), 1<<20, all)
	if *back[1<<17] == *c[1<<17] {
		t.Error("a clone shares its pages")
	}
}
