package vhostuser

import (
	"cmp"
	"errors"
	"fmt"
	"math"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vhostuser/handover"
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio/guestmem"
	"github.com/zvhost/zvhost/virtio/transport"
)

// The state as it is saved for another process, which may be a newer zvhost: all
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
	bitStartUnconfirmed
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
	st, k := &s.state, s.saver
	b = le.AppendUint32(b, stateVersion)
	b = le.AppendUint32(b, uint32(len(k.Reply)))
	b = append(b, k.Reply...)
	b = le.AppendUint32(b, uint32(len(k.Pieces)))
	for _, n := range k.Pieces {
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
			bit(s.ready(i) && !r.refused && !p.running, bitStartUnconfirmed) // the commit before it starts: see beforeStart
		for _, v := range []uint64{uint64(r.num), uint64(r.base), flags, r.life, r.log, r.desc, r.avail, r.used, p.kick.Number(), p.call.Number(), p.err.Number()} {
			b = le.AppendUint64(b, v)
		}
	}
	return le.AppendUint64(b, uint64(s.sender.pid))
}

// decode fills the session from b and the descriptors of stored. An error is why the session
// cannot be resumed; an UnfitError, why this process cannot resume it.
func (s *Session) decode(b []byte, stored handover.Stored) error {
	r := handover.NewStateReader(b, stored, s.saver)
	fd := func(sl slot) *foreign.FD {
		f := r.FD()
		if err := sl.check(f); err != nil { // the previous process may have been an older zvhost
			r.Err = errors.Join(r.Err, err)
		}
		return f
	}
	st := &s.state
	version := r.U32()
	if version != stateVersion && version != stateVersionOld {
		return handover.UnfitError{Err: fmt.Errorf("its state is of version %d, and this zvhost knows %d and %d", version, stateVersionOld, stateVersion)}
	}
	r.Message(HeaderSize, HeaderSize+MaxPayload)
	pass := r.U64()
	st.protocol, st.features = r.U64(), r.U64()
	if extra := st.protocol &^ Offered; extra != 0 && r.Err == nil {
		return handover.UnfitError{Err: fmt.Errorf("its front-end has taken protocol features %#x, which this zvhost does not know", extra)}
	}
	flags := r.Bits(1<<sessionBits-1, "the session's flags")
	st.featuresSet, st.refused = flags&bitFeaturesSet != 0, flags&bitRefused != 0
	st.protocolSet, st.owned = flags&bitProtocolSet != 0, flags&bitOwned != 0
	st.protocolNew, st.backNew = flags&bitProtocolNew != 0, flags&bitBackNew != 0
	st.status, st.device = uint8(r.UpTo(0xff, "the device status")), r.U64()
	if version != stateVersionOld {
		st.choices = r.U64()
		st.named, st.shown = uint16(r.UpTo(transport.MaxQueues, "the number of rings named")), uint16(r.UpTo(transport.MaxQueues, "the number of queues shown"))
	}
	st.logSize, st.logOffset = r.U64(), r.U64()
	if s.dirty.file = fd(memorySlot); s.dirty.file != nil {
		var err error
		if s.dirty.log, err = guestmem.MapLog(s.dirty.file.Int(), st.logSize, st.logOffset); err != nil {
			return err
		}
	}
	s.dirty.call = fd(notifierSlot)
	if f := fd(socketSlot); f != nil {
		if err := s.checkBack(f.Int()); err != nil { // an older zvhost has taken any
			s.log(LevelWarn, "the socket of SET_BACKEND_REQ_FD is not used: %v", err)
			s.drop(&f)
		}
		s.back.set(f, st.protocol)
	}
	file, queues, size := fd(memorySlot), int(r.UpTo(transport.MaxQueues, "the number of queues of its record")), uint16(r.UpTo(inflight.MaxRingSize, "the room for descriptors of its record"))
	if file != nil {
		var err error
		if s.record, err = inflight.Open(file, 0, queues, size); err != nil {
			return cmp.Or(r.Err, err)
		}
		if pass == file.SavedAs {
			s.pass = file
		}
	}
	if pass != 0 && s.pass == nil {
		r.Fail("descriptor %d is to go with an answer, and it is not the record", pass)
	}
	for range r.UpTo(MaxMemSlots, "the number of memory regions") {
		d, f := parseRegion(r.Bytes(regionSize)), fd(memorySlot)
		if f == nil && r.Err == nil {
			r.Fail("a memory region has no descriptor")
		}
		if r.Err != nil {
			return errors.Join(r.Err, f.Close())
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
	if n := r.UpTo(transport.MaxQueues, "the number of queues"); n != uint64(len(s.rings)) && r.Err == nil {
		return handover.UnfitError{Err: fmt.Errorf("it has %d queues, and this device %d: start zvhost with the same --queues", n, len(s.rings))}
	}
	for i := 0; i < len(s.rings) && r.Err == nil; i++ {
		g, p := &st.rings[i], &s.rings[i]
		g.num, g.base = uint16(r.UpTo(inflight.MaxRingSize, "the size of a ring")), uint32(r.UpTo(math.MaxUint32, "the base of a ring"))
		flags := r.Bits(1<<ringBits-1, "the flags of a ring")
		g.enabled, g.addrSet, g.adopted = flags&bitEnabled != 0, flags&bitAddrSet != 0, flags&bitAdopted != 0
		g.baseSet, g.logUsed, g.refused = flags&bitBaseSet != 0, flags&bitLogUsed != 0, flags&bitRingRefused != 0
		p.startUnconfirmed = flags&bitStartUnconfirmed != 0
		g.ours = flags&bitOurs != 0 || version == stateVersionOld
		g.life, g.log, g.desc, g.avail, g.used = r.U64(), r.U64(), r.U64(), r.U64(), r.U64()
		p.kick, p.call, p.err = fd(notifierSlot), fd(notifierSlot), fd(notifierSlot)
	}
	if r.More() { // an older zvhost does not say who has spoken last
		s.noteSender(int32(r.UpTo(math.MaxInt32, "the number of the process that has spoken last")))
	}
	return r.End()
}
