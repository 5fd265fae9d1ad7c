package recovery

import (
	"testing"

	"github.com/zvhost/zvhost/internal/testleak"
	"github.com/zvhost/zvhost/vhostuser/inflight"
)

func TestMain(m *testing.M) { testleak.Main(m) }

// A front-end can store any number where the record notes what may have run. What no
// daemon has stored, and what makes no sense for the disk, means nothing.
func TestParseNote(t *testing.T) {
	for _, w := range []inflight.Untrusted{0, 1, 2, 3, 1 << 32, 1<<32 | 2, 1<<64 - 1} {
		want := NoteNone
		if w == 1 || w == 2 {
			want = Note(w)
		}
		if got := ParseNote(w, true); got != want {
			t.Errorf("%#x of a zoned disk is %d, want %d", w, got, want)
		}
		if got := ParseNote(w, false); got != NoteNone {
			t.Errorf("%#x of an ordinary disk is %d", w, got)
		}
	}
}

// The cache mode that a record notes is the stronger one where its rings differ, and not
// known where one that was used says nothing.
func TestCacheOf(t *testing.T) {
	for name, c := range map[string]struct {
		used  int // rings that were used
		words [2]uint64
		want  CacheNote
	}{
		"an empty record":               {0, [2]uint64{wordWriteThrough, wordWriteThrough}, CacheUnknown},
		"write-back":                    {2, [2]uint64{wordWriteBack, wordWriteBack}, CacheWriteBack},
		"write-through":                 {2, [2]uint64{wordWriteThrough, wordWriteThrough}, CacheWriteThrough},
		"both":                          {2, [2]uint64{wordWriteBack, wordWriteThrough}, CacheWriteThrough},
		"one says nothing":              {2, [2]uint64{wordWriteBack, 0}, CacheUnknown},
		"one says something else":       {2, [2]uint64{wordWriteBack, 1}, CacheUnknown},
		"one that was not used differs": {1, [2]uint64{wordWriteBack, wordWriteThrough}, CacheWriteBack},
	} {
		r, err := inflight.New(2, 8)
		if err != nil {
			t.Fatal(err)
		}
		for i, w := range c.words {
			if i < c.used {
				if _, _, err := r.Ring(i).Begin(inflight.Start{Size: 8, Life: 1}, 0); err != nil {
					t.Fatal(err)
				}
			}
			r.Ring(i).SetCache(w)
		}
		if got := CacheOf(r); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
		for _, n := range []CacheNote{CacheWriteThrough, CacheWriteBack, CacheUnknown} {
			if NoteCache(r, n); c.used > 0 && CacheOf(r) != n {
				t.Errorf("%s: %d was noted, and %d is there", name, n, CacheOf(r))
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
