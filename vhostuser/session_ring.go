package vhostuser

import (
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vhostuser/inflight"
)

// The messages that set up, start and stop rings.
//
// A ring runs (the device has it) when it has everything: features agreed on,
// size, addresses, a kick descriptor, memory, and it is enabled. Its kick
// descriptor makes it started, as the protocol defines it; GET_VRING_BASE stops
// it. A message that changes something that a running ring uses pauses the ring,
// changes it and resumes it where it was.

// ringIndex checks a ring's number.
func (s *Session) ringIndex(i uint32) (int, error) {
	if i >= uint32(len(s.rings)) {
		return 0, fmt.Errorf("there is no ring %d, the device has %d", i, len(s.rings))
	}
	return int(i), nil
}

// vringState reads a payload that names a ring and a number.
func (s *Session) vringState(m *Message) (i int, num uint32, err error) {
	v, err := ParseVringState(m.Payload)
	if err != nil {
		return 0, 0, err
	}
	i, err = s.ringIndex(v.Index)
	return i, v.Num, err
}

// name notes that the front-end has set up something of ring i.
func (s *Session) name(i int) { s.state.named = max(s.state.named, uint16(i+1)) }

// stopped refuses a change that makes no sense for a ring in use.
func (s *Session) stopped(i int) error {
	if s.rings[i].running {
		return fmt.Errorf("ring %d runs, GET_VRING_BASE would stop it", i)
	}
	return nil
}

func (s *Session) setVringNum(m *Message) ([]byte, error) {
	i, num, err := s.vringState(m)
	if err != nil {
		return nil, err
	}
	if num == 0 || num > inflight.MaxRingSize {
		return nil, fmt.Errorf("ring %d of %d descriptors: it has 1 to %d", i, num, inflight.MaxRingSize)
	}
	if !s.mayBePacked() && bits.OnesCount32(num) != 1 {
		return nil, fmt.Errorf("ring %d of %d descriptors: a split ring has a power of two", i, num)
	}
	if err := s.stopped(i); err != nil {
		return nil, err
	}
	s.state.rings[i].num = uint16(num)
	s.name(i)
	return nil, s.resume(i)
}

func (s *Session) setVringBase(m *Message) ([]byte, error) {
	i, num, err := s.vringState(m)
	if err != nil {
		return nil, err
	}
	if num > 0xffff && !s.mayBePacked() {
		return nil, fmt.Errorf("ring %d: avail index %#x has more than 16 bits", i, num)
	}
	if err := s.stopped(i); err != nil {
		return nil, err
	}
	s.name(i)
	if r := &s.state.rings[i]; !r.adopted {
		// An adopted one continues from the record, which is more exact than the
		// front-end: QEMU sends the used index after a disconnect.
		r.ours = r.ours && r.baseSet && r.base == num
		r.base, r.baseSet = num, true
		r.life = nextLife(r.life)
	}
	return nil, nil
}

// packed reports whether the rings are packed ones.
func (s *Session) packed() bool { return s.state.features&featureRingPacked != 0 }

// mayBePacked reports whether they can still become packed ones: a front-end may describe its
// rings before it sets features.
func (s *Session) mayBePacked() bool { return s.packed() || !s.state.featuresSet }

// base is the point at which ring i continues.
func (s *Session) base(i int) uint32 {
	if r := &s.state.rings[i]; r.baseSet || !s.packed() {
		return r.base
	}
	return packedStart
}

func (s *Session) setVringAddr(m *Message) ([]byte, error) {
	v, err := ParseVringAddr(m.Payload)
	if err != nil {
		return nil, err
	}
	i, err := s.ringIndex(v.Index)
	if err != nil {
		return nil, err
	}
	if v.Flags&^VringLog != 0 {
		return nil, fmt.Errorf("ring %d: unknown flags %#x, bit 0 asks for logging", i, v.Flags)
	}
	// virtio, "Split Virtqueues": the alignment of the three parts. A packed ring
	// asks for more, and is looked at when it starts.
	if v.Desc%16 != 0 || v.Avail%2 != 0 || v.Used%4 != 0 {
		return nil, fmt.Errorf("ring %d is not aligned: descriptors at %#x (16), avail at %#x (2), used at %#x (4)", i, v.Desc, v.Avail, v.Used)
	}
	s.name(i)
	s.pause(i)
	r := &s.state.rings[i]
	r.desc, r.avail, r.used, r.addrSet = v.Desc, v.Avail, v.Used, true
	r.logUsed, r.log = v.Flags&VringLog != 0, v.Log
	return nil, s.resume(i)
}

func (s *Session) setVringEnable(m *Message) ([]byte, error) {
	i, num, err := s.vringState(m)
	if err != nil {
		return nil, err
	}
	if num > 1 {
		return nil, fmt.Errorf("ring %d: %d is neither 0 (disable) nor 1 (enable)", i, num)
	}
	// Old QEMUs lose bit 30 on the way through SET_FEATURES, so either message of the
	// front-end suffices.
	if !s.state.protocolSet && s.state.features&FeatureProtocol == 0 {
		return nil, errors.New("it needs feature bit 30 (protocol features), which was not negotiated")
	}
	if num == 0 {
		s.pause(i)
		s.state.rings[i].enabled = false
		return nil, nil
	}
	s.name(i)
	s.state.rings[i].enabled = true
	return nil, s.resume(i)
}

// getVringBase stops a ring, once all that was taken from it is answered, and returns the
// point at which it continues.
func (s *Session) getVringBase(m *Message) ([]byte, error) {
	i, _, err := s.vringState(m)
	if err != nil {
		return nil, err
	}
	s.pause(i)
	s.drop(&s.rings[i].kick)
	// When its last ring stops, a guest whose writes are logged is about to continue
	// elsewhere, as soon as this is answered. The disk of one that only pauses or reboots is
	// not released.
	if s.logging() && s.allStopped() {
		if err := s.dev.Release(); err != nil {
			return nil, err
		}
	}
	return VringState{uint32(i), s.base(i)}.Append(nil), nil
}

// vringFile reads a payload that names a ring, and takes over the descriptor that came along;
// it is nil if the message says that there is none. The front-end shares it and can read or
// fill it at any time, so it is set to non-blocking: a worker must not wait for it.
func (s *Session) vringFile(m *Message) (i int, f *foreign.FD, err error) {
	v, err := ParseVringFile(m.Payload)
	if err != nil {
		return 0, nil, err
	}
	if i, err = s.ringIndex(uint32(v.Index)); err != nil {
		return 0, nil, err
	}
	s.name(i)
	switch n := len(m.Files); {
	case v.NoFD && n != 0:
		return 0, nil, fmt.Errorf("ring %d: a descriptor came along, but bit 8 says that there is none", i)
	case v.NoFD:
		return i, nil, nil
	case n == 0:
		return 0, nil, fmt.Errorf("ring %d: no descriptor came along, but bit 8 does not say so", i)
	}
	if err := notifier(m.Files[0]); err != nil {
		return 0, nil, fmt.Errorf("ring %d: %w", i, err)
	}
	return i, m.Take(0), nil
}

// notifier sets an eventfd to non-blocking, so that a write to a full one does not wait. The
// front-end can undo that: see foreign.Signal.
func notifier(f *foreign.FD) error {
	if err := unix.SetNonblock(f.Int(), true); err != nil {
		return fmt.Errorf("its descriptor cannot be set to non-blocking: %w", err)
	}
	return nil
}

func (s *Session) setVringKick(m *Message) ([]byte, error) {
	i, f, err := s.vringFile(m)
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, fmt.Errorf("ring %d without a kick descriptor would have to be polled for ever, which is not supported: send an eventfd", i)
	}
	s.pause(i)
	s.drop(&s.rings[i].kick)
	s.rings[i].kick = f
	return nil, s.resume(i)
}

func (s *Session) setVringCall(m *Message) ([]byte, error) {
	i, f, err := s.vringFile(m)
	if err != nil {
		return nil, err
	}
	if s.replace(i, &s.rings[i].call, f) && f != nil {
		// The front-end had no way to know when the old descriptor went out of use,
		// so a completion may have gone there after its last look. One notification
		// too many does no harm, one too few hangs the guest.
		foreign.Signal(f.Int())
	}
	return nil, nil
}

func (s *Session) setVringErr(m *Message) ([]byte, error) {
	i, f, err := s.vringFile(m)
	if err != nil {
		return nil, err
	}
	s.replace(i, &s.rings[i].err, f)
	return nil, nil
}

// replace exchanges a descriptor that a ring signals. A ring that runs does not stop: QEMU
// sends new ones whenever the guest masks an interrupt, and must not wait for a disk.
func (s *Session) replace(i int, slot **foreign.FD, f *foreign.FD) (ran bool) {
	old, r := *slot, &s.rings[i]
	*slot = f
	if r.running {
		s.dev.Notify(i, r.call.Int(), r.err.Int())
	}
	s.drop(&old)
	return r.running
}
