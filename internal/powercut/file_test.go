package powercut

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// What a cut may leave of one sector: each version since it was last durable,
// all of them, and nothing else.
func TestCut(t *testing.T) {
	full := func(b byte) []byte { return bytes.Repeat([]byte{b}, SectorBytes) }
	left := func(f *File) map[byte]bool {
		rnd, seen := rand.New(rand.NewPCG(1, 1)), map[byte]bool{}
		for range 500 {
			b := make([]byte, SectorBytes)
			if _, err := f.Cut(rnd).ReadAt(b, BlockBytes); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b, full(b[0])) {
				t.Fatalf("a sector is torn: % x", b)
			}
			seen[b[0]] = true
		}
		return seen
	}
	f := New(3 * BlockBytes)
	want := func(what string, versions ...byte) {
		t.Helper()
		seen := left(f)
		for _, v := range versions {
			if !seen[v] {
				t.Errorf("%s: %d is never left", what, v)
			}
			delete(seen, v)
		}
		if len(seen) > 0 {
			t.Errorf("%s: %v are left too", what, seen)
		}
	}
	want("new", 0)
	f.Write(BlockBytes, full(1))
	f.Write(BlockBytes, full(2))
	want("written twice", 0, 1, 2)
	then := f.Now()
	f.Write(BlockBytes, full(3))
	f.Synced(then)
	want("written while it was synced", 2, 3)
	f.Zero(BlockBytes, BlockBytes)
	want("cleared", 2, 3, 0)
	f.Write(0, full(9))
	f.Durable(BlockBytes, SectorBytes)
	want("durable", 0)
	f.Write(BlockBytes, full(4))
	f.Durable(0, SectorBytes)
	want("another sector is durable", 0, 4)
}

// A file that is changed through a mapping is torn between any two words, and a
// size is as good as its last sync.
func TestCutMappingAndSize(t *testing.T) {
	f := New(BlockBytes)
	f.Observe(0, bytes.Repeat([]byte{1}, SectorBytes))
	f.Resize(2 * BlockBytes)
	rnd, mixed, sizes := rand.New(rand.NewPCG(1, 1)), 0, map[int64]bool{}
	for range 500 {
		c := f.Cut(rnd)
		sizes[c.Size()] = true
		b := make([]byte, SectorBytes)
		if _, err := c.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(b, make([]byte, wordBytes)); n > 0 && n < SectorBytes/wordBytes {
			mixed++
		}
	}
	if mixed == 0 || !sizes[BlockBytes] || !sizes[2*BlockBytes] || len(sizes) != 2 {
		t.Errorf("%d torn, sizes %v", mixed, sizes)
	}
	f.Synced(f.Now())
	if n := f.Cut(rnd).Size(); n != 2*BlockBytes {
		t.Errorf("%d bytes after a sync", n)
	}
}
