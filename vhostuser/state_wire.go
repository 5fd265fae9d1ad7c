package vhostuser

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// The state as it is kept for another process, which may be a newer zvhost: all
// numbers are little-endian, and stateVersion says what there is.
//
//	4  version        4  bytes of the answer that is to be sent
//	.. that answer (at replyAt)
//	4  number of pieces of the message to take from the socket, 4 each
//	8  id of the descriptor that goes with the answer, 0 for none
//	then state: see encode

// Version 1 did not have choices, named and shown, nor a ring's bitOurs.
const (
	stateVersion    = 2
	stateVersionOld = 1
	replyAt         = 8
)

const (
	bitFeaturesSet = 1 << iota
	bitRefused
	bitProtocolSet
	bitOwned
	bitProtocolNew
	bitBackNew
	sessionBits = iota // how many there are
)

const (
	bitEnabled = 1 << iota
	bitAddrSet
	bitAdopted
	bitBaseSet
	bitLogUsed
	bitRingRefused
	bitRingUnsure
	bitOurs
	ringBits = iota
)

func bit(on bool, b uint64) uint64 {
	if on {
		return b
	}
	return 0
}

// encode appends all that another process needs, but the descriptors.
func (s *Session) encode(b []byte) []byte {
	st, k := &s.state, s.keep
	b = le.AppendUint32(b, stateVersion)
	b = le.AppendUint32(b, uint32(len(k.reply)))
	b = append(b, k.reply...)
	b = le.AppendUint32(b, uint32(len(k.pieces)))
	for _, n := range k.pieces {
		b = le.AppendUint32(b, n)
	}
	b = le.AppendUint64(b, s.pass.Number())
	flags := bit(st.featuresSet, bitFeaturesSet) | bit(st.refused, bitRefused) | bit(st.protocolSet, bitProtocolSet) | bit(st.owned, bitOwned) |
		bit(st.protocolNew, bitProtocolNew) | bit(st.backNew, bitBackNew)
	for _, v := range []uint64{st.protocol, st.features, flags, uint64(st.status), st.device, st.choices, uint64(st.named), uint64(st.shown), st.logSize, st.logOffset, s.dirty.file.Number(), s.dirty.call.Number(), s.back.number(), s.record.File().Number(), uint64(s.record.Rings()), uint64(s.record.Size()), uint64(st.numRegions)} {
		b = le.AppendUint64(b, v)
	}
	for i := range st.numRegions {
		b = appendRegion(b, st.regions[i])
		b = le.AppendUint64(b, s.regions[i].file.SavedAs)
	}
	b = le.AppendUint64(b, uint64(len(s.rings)))
	for i := range s.rings {
		r, p := &st.rings[i], &s.rings[i]
		flags := bit(r.enabled, bitEnabled) | bit(r.addrSet, bitAddrSet) | bit(r.adopted, bitAdopted) |
			bit(r.baseSet, bitBaseSet) | bit(r.logUsed, bitLogUsed) | bit(r.refused, bitRingRefused) | bit(r.ours, bitOurs) |
			bit(s.ready(i) && !r.refused && !p.running, bitRingUnsure) // the commit before it starts: see beforeStart
		for _, v := range []uint64{uint64(r.num), uint64(r.base), flags, r.life, r.log, r.desc, r.avail, r.used, p.kick.Number(), p.call.Number(), p.err.Number()} {
			b = le.AppendUint64(b, v)
		}
	}
	return le.AppendUint64(b, uint64(s.speaker.pid))
}

// A stateReader reads what encode has written. After the first thing that is
// missing it returns zeroes, and err says what.
type stateReader struct {
	b    []byte
	kept Kept
	s    *Session
	err  error
}

func (r *stateReader) bytes(n int) []byte {
	if n > len(r.b) {
		r.fail("it is cut short")
		return make([]byte, min(n, regionSize))
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

// upTo is a number that is no larger than most.
func (r *stateReader) upTo(most uint64, what string) uint64 {
	v := r.u64()
	if v > most {
		r.fail("%s is %#x, and %#x is the most", what, v, most)
		return 0
	}
	return v
}

// bits are flags, of which known are all that there are.
func (r *stateReader) bits(known uint64, what string) uint64 {
	v := r.u64()
	if v&^known != 0 {
		r.fail("%s are %#x, and %#x are all that there are", what, v, known)
		return 0
	}
	return v
}

// fail notes what is wrong with what was read: it is torn, or not what encode writes.
func (r *stateReader) fail(format string, args ...any) {
	if r.b = nil; r.err == nil { // what comes behind makes no sense either
		r.err = fmt.Errorf("its state is damaged: "+format, args...)
	}
}

func (r *stateReader) u32() uint32 { return le.Uint32(r.bytes(4)) }
func (r *stateReader) u64() uint64 { return le.Uint64(r.bytes(8)) }

// fd takes the descriptor out of what was kept whose id comes next.
func (r *stateReader) fd(sl slot) *foreign.FD {
	id := r.u64()
	if id == 0 {
		return nil
	}
	name := strconv.FormatUint(id, 10)
	f := r.kept[name]
	if have := r.s.keep.names[id]; have != nil { // another one of the same file
		again, err := have.Dup()
		if err != nil {
			r.err = errors.Join(r.err, fmt.Errorf("descriptor %d: %w", id, err))
			return nil
		}
		return again
	}
	if f == nil {
		r.err = errors.Join(r.err, fmt.Errorf("descriptor %d was not given back", id))
		return nil
	}
	delete(r.kept, name)
	f.SavedAs = id
	if err := sl.check(f); err != nil { // the process before may have been an older one
		r.err = errors.Join(r.err, err)
	}
	r.s.keep.names[id] = f
	r.s.keep.lastID = max(r.s.keep.lastID, id)
	return f
}

// decode fills the session from b and the descriptors of kept.
func (s *Session) decode(b []byte, kept Kept) error {
	// Ids of what nobody has acted on are not used again: the store may still
	// have them when ours come.
	for name := range kept {
		if id, err := strconv.ParseUint(name, 10, 64); err == nil {
			s.keep.lastID = max(s.keep.lastID, id)
		}
	}
	r := &stateReader{b: b, kept: kept, s: s}
	st, k := &s.state, s.keep
	version := r.u32()
	if version != stateVersion && version != stateVersionOld {
		return UnfitError{Err: fmt.Errorf("its state is of version %d, and this zvhost knows %d and %d", version, stateVersionOld, stateVersion)}
	}
	r.message(k)
	pass := r.u64()
	st.protocol, st.features = r.u64(), r.u64()
	if extra := st.protocol &^ Offered; extra != 0 && r.err == nil {
		return UnfitError{Err: fmt.Errorf("its front-end has taken protocol features %#x, which this zvhost does not know", extra)}
	}
	flags := r.bits(1<<sessionBits-1, "the session's flags")
	st.featuresSet, st.refused = flags&bitFeaturesSet != 0, flags&bitRefused != 0
	st.protocolSet, st.owned = flags&bitProtocolSet != 0, flags&bitOwned != 0
	st.protocolNew, st.backNew = flags&bitProtocolNew != 0, flags&bitBackNew != 0
	st.status, st.device = uint8(r.upTo(0xff, "the device status")), r.u64()
	if version != stateVersionOld {
		st.choices = r.u64()
		st.named, st.shown = uint16(r.upTo(MaxQueues, "the number of rings named")), uint16(r.upTo(MaxQueues, "the number of queues shown"))
	}
	st.logSize, st.logOffset = r.u64(), r.u64()
	if s.dirty.file = r.fd(memorySlot); s.dirty.file != nil {
		var err error
		if s.dirty.log, err = guestmem.MapLog(s.dirty.file.Int(), st.logSize, st.logOffset); err != nil {
			return err
		}
	}
	s.dirty.call = r.fd(notifierSlot)
	if f := r.fd(socketSlot); f != nil {
		if err := s.checkBack(f.Int()); err != nil { // an older zvhost has taken any
			s.log(LevelWarn, "the socket of SET_BACKEND_REQ_FD is not used: %v", err)
			s.drop(&f)
		}
		s.back.set(f, st.protocol)
	}
	file, queues, size := r.fd(memorySlot), int(r.upTo(MaxQueues, "the number of queues of its record")), uint16(r.upTo(MaxRingSize, "the room for descriptors of its record"))
	if file != nil {
		var err error
		if s.record, err = OpenRecord(file, 0, queues, size); err != nil {
			return cmp.Or(r.err, err)
		}
		if pass == file.SavedAs {
			s.pass = file
		}
	}
	if pass != 0 && s.pass == nil {
		r.fail("descriptor %d is to go with an answer, and it is not the record", pass)
	}
	for range r.upTo(MaxMemSlots, "the number of memory regions") {
		d, f := parseRegion(r.bytes(regionSize)), r.fd(memorySlot)
		if f == nil && r.err == nil {
			r.fail("a memory region has no descriptor")
		}
		if r.err != nil {
			return errors.Join(r.err, f.Close())
		}
		m, err := mapRegion(f, d)
		if err != nil {
			return err
		}
		s.regions = append(s.regions, m)
	}
	mem, err := memoryOf(s.regions)
	if err != nil {
		return err
	}
	s.install(s.regions, mem)
	if n := r.upTo(MaxQueues, "the number of queues"); n != uint64(len(s.rings)) && r.err == nil {
		return UnfitError{Err: fmt.Errorf("it has %d queues, and this device %d: start zvhost with the same --queues", n, len(s.rings))}
	}
	for i := 0; i < len(s.rings) && r.err == nil; i++ {
		g, p := &st.rings[i], &s.rings[i]
		g.num, g.base = uint16(r.upTo(MaxRingSize, "the size of a ring")), uint32(r.upTo(math.MaxUint32, "the base of a ring"))
		flags := r.bits(1<<ringBits-1, "the flags of a ring")
		g.enabled, g.addrSet, g.adopted = flags&bitEnabled != 0, flags&bitAddrSet != 0, flags&bitAdopted != 0
		g.baseSet, g.logUsed, g.refused = flags&bitBaseSet != 0, flags&bitLogUsed != 0, flags&bitRingRefused != 0
		p.unsure = flags&bitRingUnsure != 0
		g.ours = flags&bitOurs != 0 || version == stateVersionOld
		g.life, g.log, g.desc, g.avail, g.used = r.u64(), r.u64(), r.u64(), r.u64(), r.u64()
		p.kick, p.call, p.err = r.fd(notifierSlot), r.fd(notifierSlot), r.fd(notifierSlot)
	}
	if r.err == nil && len(r.b) > 0 { // an older zvhost does not say who has spoken last
		s.heard(int32(r.upTo(math.MaxInt32, "the number of the process that has spoken last")))
	}
	if len(r.b) > 0 {
		r.fail("%d bytes are left over", len(r.b))
	}
	return r.err
}

// message reads the message that the process before was about, and its answer.
func (r *stateReader) message(k *keeper) {
	const most = HeaderSize + MaxPayload
	n := r.u32()
	if n > most || n > 0 && n < HeaderSize {
		r.fail("the answer to be sent has %d bytes", n)
		return
	}
	k.reply = slices.Clone(r.bytes(int(n)))
	pieces := r.u32()
	if pieces > maxPieces {
		r.fail("the message to be taken came in %d pieces, and %d is the most", pieces, maxPieces)
		return
	}
	left := uint32(most)
	for range pieces {
		p := r.u32()
		if p == 0 || p > left {
			r.fail("the message to be taken has a piece of %d bytes", p)
			return
		}
		k.pieces = append(k.pieces, p)
		left -= p
	}
}
