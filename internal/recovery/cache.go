package recovery

import "github.com/zvhost/zvhost/vhostuser/inflight"

// The words that mean a cache mode in each ring's part of the record. No other word becomes
// one of them by accident.
const (
	wordWriteBack    uint64 = 0x7a76_6361_6368_6501
	wordWriteThrough uint64 = 0x7a76_6361_6368_6502
)

// A CacheNote is the cache mode in a record, checked.
type CacheNote uint8

// The cache modes in a record.
const (
	CacheUnknown CacheNote = iota
	CacheWriteBack
	CacheWriteThrough
)

// ParseCacheNote checks the word of a record. Of a word that no zvhost stores the mode is unknown.
func ParseCacheNote(w inflight.Untrusted) CacheNote {
	switch uint64(w) {
	case wordWriteBack:
		return CacheWriteBack
	case wordWriteThrough:
		return CacheWriteThrough
	}
	return CacheUnknown
}

// CacheOf is the cache mode in r, if another process has used it: the stronger mode if its
// rings differ, and unknown if one of them has none and no other one has the stronger.
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

// NoteCache stores n in each ring's part of r, which may be nil.
func NoteCache(r *inflight.Record, n CacheNote) {
	word := map[CacheNote]uint64{CacheWriteBack: wordWriteBack, CacheWriteThrough: wordWriteThrough}[n]
	for i := range r.Rings() {
		if ring := r.Ring(i); uint64(ring.Cache()) != word {
			ring.SetCache(word)
		}
	}
}
