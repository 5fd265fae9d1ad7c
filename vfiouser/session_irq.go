package vfiouser

import (
	"fmt"
	"math/bits"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

// Interrupts. The session owns the eventfds, and lends those of triggers to the device.

// A vector is what the client has set up for one vector of an interrupt type.
type vector struct {
	trigger, mask, unmask *foreign.FD // nil: none
	masked                bool
	// pending is an eventfd of this process that the device has instead of trigger while the
	// vector is masked.
	pending *foreign.FD
}

func (v *vector) close() {
	for _, f := range []**foreign.FD{&v.trigger, &v.mask, &v.unmask, &v.pending} {
		_ = (*f).Close()
		*f = nil
	}
	v.masked = false
}

// slot is the eventfd of an action.
func (v *vector) slot(action uint32) **foreign.FD {
	switch action {
	case IRQMask:
		return &v.mask
	case IRQUnmask:
		return &v.unmask
	}
	return &v.trigger
}

// lent is what the device signals.
func (v *vector) lent() int {
	if v.masked {
		return v.pending.Int()
	}
	return v.trigger.Int()
}

func (s *Session) irq(index uint32) (IRQ, error) {
	if index >= uint32(len(s.info.IRQs)) {
		return IRQ{}, refuse(unix.EINVAL, "there is no interrupt type %d, there are %d", index, len(s.info.IRQs))
	}
	return s.info.IRQs[index], nil
}

// checkIRQSet checks what does not depend on descriptors.
func (s *Session) checkIRQSet(q *IRQSet, fds int) error {
	irq, err := s.irq(q.Index)
	if err != nil {
		return err
	}
	data, action := q.Flags&irqDataBits, q.Flags&irqActionBits
	want := 0
	if data == IRQDataBool {
		want = int(min(q.Count, MaxVectors))
	}
	switch {
	case q.Flags&^(irqDataBits|irqActionBits) != 0 || bits.OnesCount32(data) != 1 || bits.OnesCount32(action) != 1:
		return refuse(unix.EINVAL, "flags %#x: exactly one kind of data and one action have to be set", q.Flags)
	case uint64(q.Argsz) < uint64(irqSetSize+len(q.Data)):
		return refuse(unix.EINVAL, "argsz %d, and the payload has %d bytes", q.Argsz, irqSetSize+len(q.Data))
	case q.Count == 0 && (q.Flags != IRQDataNone|IRQTrigger || q.Start != 0):
		return refuse(unix.EINVAL, "count 0 disables all vectors, with flags %#x and start 0 only", IRQDataNone|IRQTrigger)
	case q.Start > irq.Count || q.Count > irq.Count-q.Start:
		return refuse(unix.EINVAL, "vectors %d to %d, and the interrupt type has %d", q.Start, uint64(q.Start)+uint64(q.Count), irq.Count)
	case len(q.Data) != want:
		return refuse(unix.EINVAL, "%d bytes of data instead of %d", len(q.Data), want)
	case action != IRQTrigger && irq.Flags&IRQMaskable == 0:
		return refuse(unix.ENOTSUP, "interrupt type %d cannot be masked", q.Index)
	case data == IRQDataEventfd && irq.Flags&IRQEventfd == 0:
		return refuse(unix.ENOTSUP, "interrupt type %d has no eventfds", q.Index)
	case data != IRQDataEventfd && fds > 0:
		return refuse(unix.EINVAL, "%d descriptors came along, and the flags are %#x", fds, q.Flags)
	case fds > 0 && uint32(fds) != q.Count:
		return refuse(unix.EINVAL, "%d descriptors came along with count %d", fds, q.Count)
	}
	for _, b := range q.Data {
		if b > 1 {
			return refuse(unix.EINVAL, "a boolean of %d", b)
		}
	}
	return nil
}

func (s *Session) setIRQs(m *Message) ([]byte, error) {
	q, err := ParseIRQSet(m.Payload)
	if err != nil {
		return nil, err
	}
	if err := s.checkIRQSet(&q, len(m.Files)); err != nil {
		return nil, err
	}
	if s.irqs[q.Index] == nil && q.Count > 0 {
		s.irqs[q.Index] = make([]vector, s.info.IRQs[q.Index].Count)
	}
	if q.Count == 0 {
		for i := range s.irqs[q.Index] {
			s.dev.SetIRQ(q.Index, uint32(i), -1)
			s.irqs[q.Index][i].close()
		}
		s.irqs[q.Index] = nil
		return nil, nil
	}
	if q.Flags&IRQDataEventfd != 0 {
		return nil, s.exchange(&q, m)
	}
	for i := range q.Count {
		if q.Flags&IRQDataBool != 0 && q.Data[i] == 0 {
			continue
		}
		if err := s.act(&q, q.Start+i); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// exchange replaces the eventfds of an action: those that came along, or none.
func (s *Session) exchange(q *IRQSet, m *Message) error {
	for _, f := range m.Files {
		if err := unix.SetNonblock(f.Int(), true); err != nil {
			return fmt.Errorf("its descriptor: %w", err)
		}
	}
	action := q.Flags & irqActionBits
	for i := range q.Count {
		v := &s.irqs[q.Index][q.Start+i]
		slot := v.slot(action)
		old := *slot
		*slot = nil
		if len(m.Files) > 0 {
			*slot = m.Take(int(i))
		}
		if action == IRQTrigger && !v.masked {
			s.dev.SetIRQ(q.Index, q.Start+i, v.lent())
		}
		_ = old.Close()
	}
	return nil
}

// act masks, unmasks or triggers a vector.
func (s *Session) act(q *IRQSet, n uint32) error {
	v := &s.irqs[q.Index][n]
	switch q.Flags & irqActionBits {
	case IRQTrigger:
		signal(v.lent())
	case IRQMask:
		if v.masked {
			return nil
		}
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			return fmt.Errorf("eventfd: %w", err)
		}
		v.pending, v.masked = foreign.NewFD(fd), true
		s.dev.SetIRQ(q.Index, n, v.lent())
		signal(v.mask.Int())
	case IRQUnmask:
		if !v.masked {
			return nil
		}
		v.masked = false
		s.dev.SetIRQ(q.Index, n, v.lent())
		var b [8]byte
		if _, err := unix.Read(v.pending.Int(), b[:]); err == nil {
			signal(v.trigger.Int())
		}
		_ = v.pending.Close()
		v.pending = nil
		signal(v.unmask.Int())
	}
	return nil
}

// signal makes an eventfd readable, if there is one.
func signal(fd int) {
	if fd >= 0 {
		foreign.Signal(fd)
	}
}
