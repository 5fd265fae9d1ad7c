package vhostuser

import (
	"errors"
	"fmt"
)

// The messages about the record of requests in flight. A front-end that can
// connect anew asks for one, keeps it, and gives it back to the next process.

// inflightSize is the payload as the protocol has it; front-ends that send their
// C structure as it stands have 4 bytes of padding behind it.
const (
	inflightSize   = 20
	inflightPadded = 24
)

// inflight is the payload of GET_INFLIGHT_FD and SET_INFLIGHT_FD.
type inflight struct {
	mapBytes, mapOffset uint64
	queues, size        uint16
}

func parseInflight(b []byte) (inflight, error) {
	if len(b) != inflightPadded {
		if err := wantSize(b, inflightSize); err != nil {
			return inflight{}, err
		}
	}
	return inflight{le.Uint64(b), le.Uint64(b[8:]), le.Uint16(b[16:]), le.Uint16(b[18:])}, nil
}

// append appends the wire form to b, as long as the other side's.
func (v inflight) append(b []byte, n int) []byte {
	b = le.AppendUint64(le.AppendUint64(b, v.mapBytes), v.mapOffset)
	b = le.AppendUint16(le.AppendUint16(b, v.queues), v.size)
	return append(b, make([]byte, n-inflightSize)...)
}

func (s *Session) parseInflight(m *Message) (inflight, error) {
	v, err := parseInflight(m.Payload)
	if err != nil {
		return v, err
	}
	if int(v.queues) > len(s.rings) {
		return v, fmt.Errorf("%d queues, the device has %d", v.queues, len(s.rings))
	}
	if i := s.anyRunning(); i >= 0 {
		return v, fmt.Errorf("ring %d runs, GET_VRING_BASE would stop it", i)
	}
	return v, nil
}

// getInflightFD makes a new record for the front-end.
func (s *Session) getInflightFD(m *Message) ([]byte, error) {
	v, err := s.parseInflight(m)
	if err != nil {
		return nil, err
	}
	if v.queues == 0 || v.size == 0 || v.size > maxRingSize {
		return nil, fmt.Errorf("a record for %d queues of %d descriptors", v.queues, v.size)
	}
	r, err := NewRecord(int(v.queues), v.size)
	if err != nil {
		return nil, err
	}
	if err := s.put(r.file); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	s.attach(r)
	s.pass = r.file
	v.mapBytes, v.mapOffset = uint64(recordBytes(int(v.queues), v.size)), 0
	return v.append(nil, len(m.Payload)), nil
}

// setInflightFD takes over the record that the front-end has: an empty one, or
// one with what was in flight when a process before this one died.
func (s *Session) setInflightFD(m *Message) ([]byte, error) {
	v, err := s.parseInflight(m)
	if err != nil {
		return nil, err
	}
	if v.mapOffset != 0 || v.mapBytes != uint64(recordBytes(int(v.queues), v.size)) {
		return nil, errRecord
	}
	r, err := OpenRecord(m.Take(0), 0, int(v.queues), v.size)
	if err != nil {
		return nil, err
	}
	s.attach(r)
	n := 0
	for i := range s.rings {
		ring := &s.state.rings[i]
		rec := r.Ring(i)
		if rec == nil || rec.life() == 0 {
			continue
		}
		ring.life, ring.adopted = rec.life(), true
		n += len(rec.InFlight())
	}
	if n > 0 {
		s.log(LevelInfo, "goes on with %d requests that were in flight when another zvhost died", n)
	}
	s.dev.Adopt(r)
	return nil, nil
}

// recordOf is the record of ring i, nil for none. There is none of packed rings.
func (s *Session) recordOf(i int) *RingRecord {
	if s.packed() {
		return nil
	}
	return s.record.Ring(i)
}

// attach makes r the session's record. No ring runs.
func (s *Session) attach(r *Record) {
	if err := s.record.Close(); err != nil {
		s.log(LevelWarn, "%v", err)
	}
	s.record = r
}
