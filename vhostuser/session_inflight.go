package vhostuser

import (
	"errors"
	"fmt"

	"github.com/zvhost/zvhost/vhostuser/inflight"
)

// The messages about the record of requests in flight. A front-end that can
// reconnect asks for one, retains it, and gives it to the next process.

// inflightSize is the size of the payload in the protocol; front-ends that send their C
// structure unchanged have 4 bytes of padding behind it.
const (
	inflightSize   = 20
	inflightPadded = 24
)

// InflightArea is the payload of GET_INFLIGHT_FD and SET_INFLIGHT_FD.
type InflightArea struct {
	Bytes, Offset uint64 // of the memory behind the descriptor
	Queues        uint16
	QueueSize     uint16 // descriptors of each
}

// ParseInflightArea reads an InflightArea.
func ParseInflightArea(b []byte) (InflightArea, error) {
	if len(b) != inflightPadded {
		if err := wantSize(b, inflightSize); err != nil {
			return InflightArea{}, err
		}
	}
	return InflightArea{le.Uint64(b), le.Uint64(b[8:]), le.Uint16(b[16:]), le.Uint16(b[18:])}, nil
}

// Append appends the wire form to b, without padding.
func (v InflightArea) Append(b []byte) []byte {
	b = le.AppendUint64(le.AppendUint64(b, v.Bytes), v.Offset)
	return le.AppendUint16(le.AppendUint16(b, v.Queues), v.QueueSize)
}

func (s *Session) parseInflight(m *Message) (InflightArea, error) {
	v, err := ParseInflightArea(m.Payload)
	if err != nil {
		return v, err
	}
	if int(v.Queues) > len(s.rings) {
		return v, fmt.Errorf("%d queues, the device has %d", v.Queues, len(s.rings))
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
	if v.Queues == 0 || v.QueueSize == 0 || v.QueueSize > inflight.MaxRingSize {
		return nil, fmt.Errorf("a record for %d queues of %d descriptors", v.Queues, v.QueueSize)
	}
	r, err := inflight.New(int(v.Queues), v.QueueSize)
	if err != nil {
		return nil, err
	}
	if err := s.saver.Save(r.File()); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	s.attach(r)
	s.pass = r.File()
	v.Bytes, v.Offset = uint64(inflight.Bytes(int(v.Queues), v.QueueSize)), 0
	return append(v.Append(nil), m.Payload[inflightSize:]...), nil
}

// setInflightFD takes over the record that the front-end has: an empty one, or
// one with what was in flight when a process before this one died.
func (s *Session) setInflightFD(m *Message) ([]byte, error) {
	v, err := s.parseInflight(m)
	if err != nil {
		return nil, err
	}
	if v.Offset != 0 || v.Bytes != uint64(inflight.Bytes(int(v.Queues), v.QueueSize)) {
		return nil, inflight.ErrForeign
	}
	r, err := inflight.Open(m.Take(0), 0, int(v.Queues), v.QueueSize)
	if err != nil {
		return nil, err
	}
	s.attach(r)
	n := 0
	for i := range s.rings {
		ring := &s.state.rings[i]
		rec := r.Ring(i)
		if rec == nil || rec.Life() == 0 {
			continue
		}
		ring.life, ring.adopted = rec.Life(), true
		n += len(rec.InFlight())
	}
	if n > 0 {
		s.log(LevelInfo, "resumes %d requests that were in flight when another zvhost died", n)
	}
	return nil, nil
}

// attach makes r the session's record. No ring runs. Rings no longer continue from the former
// record, and the device releases what it has claimed for it while that is still mapped.
func (s *Session) attach(r *inflight.Record) {
	old := s.record
	s.record = r
	for i := range s.rings {
		s.state.rings[i].adopted = false
	}
	s.dev.Adopt(r)
	if err := old.Close(); err != nil {
		s.log(LevelWarn, "%v", err)
	}
}
