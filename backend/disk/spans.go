package disk

import (
	"sync"

	"github.com/zvhost/zvhost/backend/engine"
)

// spans are the parts of a disk's file that are being changed, each by one request at a
// time. They are there where a write may have to read a block of the storage first, put
// its part into it and write it back: two at once that share a block, or one and whoever
// else writes or clears the rest of it, would each bring back what the other has
// changed. Reads need none: the bytes of a block that nobody changes are the same in it
// before and after.
//
// Spans are given in the order in which they are asked for: whoever comes behind one
// that waits, waits as well. Who has one waits for its I/O only, and for memory that
// others give back when theirs is done, so nobody waits for ever.
type spans struct {
	mu      sync.Mutex
	held    *span // a ring, in no order; nil when it is empty
	waiting spanQueue
}

// A span is the bytes from from up to to. It is in a Request, or its owner waits for it.
type span struct {
	from, to int64
	held     bool // it was given: the owner's
	request  *Request
	given    chan struct{} // without request: closed when it is given

	prev, next *span
}

type spanQueue struct{ head, tail *span }

// take asks for the part of s. If it reports false s waits, and what s says is done
// when it has the part: its request's lane is handed the request.
func (l *spans) take(s *span) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting.head != nil || l.conflicts(s) {
		s.next = nil
		if l.waiting.tail == nil {
			l.waiting.head = s
		} else {
			l.waiting.tail.next = s
		}
		l.waiting.tail = s
		return false
	}
	l.give(s)
	return true
}

// Try is take for a part of which nobody has any, or not at all.
func (l *spans) Try(from, to int64) *span {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &span{from: from, to: to}
	if l.waiting.head != nil || l.conflicts(s) {
		return nil
	}
	l.give(s)
	return s
}

// Wait takes a part for a caller that is on no lane: it must not be what a lane waits
// for.
func (l *spans) Wait(from, to int64) *span {
	s := &span{from: from, to: to, given: make(chan struct{})}
	if !l.take(s) {
		<-s.given
	}
	return s
}

func (l *spans) conflicts(s *span) bool {
	if l.held == nil {
		return false
	}
	for h := l.held; ; h = h.next {
		if h.from < s.to && s.from < h.to {
			return true
		}
		if h.next == l.held {
			return false
		}
	}
}

func (l *spans) give(s *span) {
	s.held = true
	if l.held == nil {
		s.prev, s.next = s, s
		l.held = s
		return
	}
	s.next, s.prev = l.held, l.held.prev
	s.prev.next, s.next.prev = s, s
}

// Release gives a part back, and to those who wait what they can have now.
func (l *spans) Release(s *span) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held = s.next; s.next == s {
		l.held = nil
	}
	s.prev.next, s.next.prev = s.next, s.prev
	s.prev, s.next, s.held = nil, nil, false
	for w := l.waiting.head; w != nil && !l.conflicts(w); w = l.waiting.head {
		if l.waiting.head = w.next; w.next == nil {
			l.waiting.tail = nil
		}
		l.give(w)
		if w.request != nil {
			w.request.Post()
		} else {
			close(w.given)
		}
	}
}

// An Edged file is one whose storage is read and written in larger blocks than the disk
// over it has: a file of which direct I/O takes whole blocks of the file system only, or
// a device with 4096-byte sectors that is shown with 512-byte ones. The zero edged is
// any other.
type Edged struct {
	Unit   int64 // bytes of a block of the storage, a power of two; 0: no such file
	Spans  spans
	File   int // the same through the page cache, for the end of a file that has a part of a block there
	Ragged func() int64
}

// hugeFolio is as much as the page cache may have of a file in one piece (PMD_SIZE).
const hugeFolio = 2 << 20

// Begin has r.io's part of the file, for a request that changes it; and sees to it that
// what is at the ragged end of a file goes through the page cache: a whole block written
// there would make the file longer. If it reports false r waits, and its disk's Continue
// is called when it can go on.
func (e *Edged) Begin(r *Request) bool {
	io := &r.IO
	from, to := io.Off&^(e.Unit-1), AlignUp(io.Off+io.Len, e.Unit)
	if e.isRagged(io) {
		io.FD = e.File
		if io.Dsync { // it may not be told of what the kernel loses: see Request.through
			io.Dsync, r.ThenSync = false, true
		}
		// And what the page cache may have in one piece with it does not change meanwhile.
		from = io.Off &^ (hugeFolio - 1)
	}
	if io.Code == engine.Readv {
		return true
	}
	r.span.from, r.span.to, r.span.request = from, to, r
	return e.Spans.take(&r.span)
}

// isRagged says whether the I/O is at the end of a file that has a part of a block there.
func (e *Edged) isRagged(io *engine.Op) bool {
	end := e.Ragged()
	return end&(e.Unit-1) != 0 && io.Off+io.Len > end&^(e.Unit-1)
}

// Reach is what memory the I/O takes that begin has seen.
func (e *Edged) Reach(io *engine.Op, a Reach) Reach {
	if e.isRagged(io) {
		return Reach{}
	}
	return a
}

// End gives r's part of the file back, if it has one.
func (e *Edged) End(r *Request) {
	if r.span.held {
		e.Spans.Release(&r.span)
	}
}

// AlignUp is the first multiple of to that is not less than n.
func AlignUp(n, to int64) int64 { return (n + to - 1) / to * to }
