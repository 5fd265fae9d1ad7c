package recovery

import "github.com/zvhost/zvhost/vhostuser/inflight"

// What the record says of the cache mode in each ring's part. The numbers are such that
// nothing else turns into one of them by accident.
const (
	wordWriteBack    uint64 = 0x7a76_6361_6368_6501
	wordWriteThrough uint64 = 0x7a76_6361_6368_6502
)

// A CacheNote is what a record says of the cache mode, checked.
type CacheNote uint8

// What a record may say.
const (
	CacheUnknown CacheNote = iota
	CacheWriteBack
	CacheWriteThrough
)

// ParseCacheNote checks what stands in a record. What no zvhost has stored is not known.
func ParseCacheNote(w inflight.Untrusted) CacheNote {
	switch uint64(w) {
	case wordWriteBack:
		return CacheWriteBack
	case wordWriteThrough:
		return CacheWriteThrough
	}
	return CacheUnknown
}

// CacheOf is what r says of the cache mode, if another process has used it: the stronger
// mode where its rings differ, and nothing where one of them says nothing.
func CacheOf(r *inflight.Record) CacheNote {
	notes := map[CacheNote]int{}
	for i := range r.Rings() {
		if ring := r.Ring(i); !ring.IsEmpty() {
			notes[ParseCacheNote(ring.Cache())]++
		}
	}
	switch {
	case notes[CacheWriteThrough] > 0:
		return CacheWriteThrough
	case notes[CacheWriteBack] > 0 && notes[CacheUnknown] == 0:
		return CacheWriteBack
	}
	return CacheUnknown
}

// NoteCache has r, which may be nil, say n in each ring's part.
func NoteCache(r *inflight.Record, n CacheNote) {
	word := map[CacheNote]uint64{CacheWriteBack: wordWriteBack, CacheWriteThrough: wordWriteThrough}[n]
	for i := range r.Rings() {
		if ring := r.Ring(i); uint64(ring.Cache()) != word {
			ring.SetCache(word)
		}
	}
}
