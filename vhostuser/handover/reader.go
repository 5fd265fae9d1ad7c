package handover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/zvhost/zvhost/internal/foreign"
)

// A StateReader reads the state of a session from what was committed last. After the first
// number that is missing it returns zeroes, and Err says what is wrong.
type StateReader struct {
	Err error

	b      []byte
	stored Stored
	saver  *Saver
}

// NewStateReader reads b, and takes descriptors out of kept, which saver has from then on.
func NewStateReader(b []byte, stored Stored, saver *Saver) *StateReader {
	saver.Reserve(stored)
	return &StateReader{b: b, stored: stored, saver: saver}
}

// mostZeroes is how many bytes Bytes returns where they are missing: as many as any field
// of fixed length has.
const mostZeroes = 64

// Bytes are the next n bytes.
func (r *StateReader) Bytes(n int) []byte {
	if n > len(r.b) {
		r.Fail("it is cut short")
		return make([]byte, min(n, mostZeroes))
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

// U32 is the next number of 32 bits, and U64 of 64.
func (r *StateReader) U32() uint32 { return binary.LittleEndian.Uint32(r.Bytes(4)) }
func (r *StateReader) U64() uint64 { return binary.LittleEndian.Uint64(r.Bytes(8)) }

// UpTo is the next number of 64 bits, which is to be no larger than most.
func (r *StateReader) UpTo(most uint64, what string) uint64 {
	v := r.U64()
	if v > most {
		r.Fail("%s is %#x, and %#x is the most", what, v, most)
		return 0
	}
	return v
}

// Bits are flags, of which known are all that there are.
func (r *StateReader) Bits(known uint64, what string) uint64 {
	v := r.U64()
	if v&^known != 0 {
		r.Fail("%s are %#x, and %#x are all that there are", what, v, known)
		return 0
	}
	return v
}

// Fail notes what is wrong with what was read: it is torn, or no session writes it.
func (r *StateReader) Fail(format string, args ...any) {
	if r.b = nil; r.Err == nil { // what comes behind makes no sense either
		r.Err = fmt.Errorf("its state is damaged: "+format, args...)
	}
}

// More says whether something is left to read.
func (r *StateReader) More() bool { return r.Err == nil && len(r.b) > 0 }

// End returns Err, which says so where something is left to read.
func (r *StateReader) End() error {
	if r.More() {
		r.Fail("%d bytes are left over", len(r.b))
	}
	return r.Err
}

// Message reads the message that the process before acted on, and its answer, into the
// Saver. A message has a header of so many bytes, and most bytes at most.
func (r *StateReader) Message(header, most uint32) {
	n := r.U32()
	if n > most || n > 0 && n < header {
		r.Fail("the answer to be sent has %d bytes", n)
		return
	}
	r.saver.Reply = slices.Clone(r.Bytes(int(n)))
	pieces := r.U32()
	if pieces > MaxPieces {
		r.Fail("the message to be taken came in %d pieces, and %d is the most", pieces, MaxPieces)
		return
	}
	left := most
	for range pieces {
		p := r.U32()
		if p == 0 || p > left {
			r.Fail("the message to be taken has a piece of %d bytes", p)
			return
		}
		r.saver.Pieces = append(r.saver.Pieces, p)
		left -= p
	}
}

// FD is the descriptor whose number comes next, nil where that is 0.
func (r *StateReader) FD() *foreign.FD {
	n := r.U64()
	if n == 0 {
		return nil
	}
	name := strconv.FormatUint(n, 10)
	f := r.stored[name]
	if have := r.saver.files[n]; have != nil { // another one of the same file
		again, err := have.Dup()
		if err != nil {
			r.Err = errors.Join(r.Err, fmt.Errorf("descriptor %d: %w", n, err))
			return nil
		}
		return again
	}
	if f == nil {
		r.Err = errors.Join(r.Err, fmt.Errorf("descriptor %d was not given back", n))
		return nil
	}
	delete(r.stored, name)
	f.SavedAs = n
	r.saver.files[n] = f
	r.saver.last = max(r.saver.last, n)
	return f
}
