package vfio

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

// interrupts are the MSI-X vectors. Workers write the eventfds of queues themselves, so that an
// eventfd which the client has taken back stays open until no queue has it: interrupts has
// descriptors of its own.
type interrupts struct {
	mu      sync.Mutex // guards what follows; held while an eventfd is signalled
	vectors []vector
	unused  []*foreign.FD // taken back; queues may have them
}

// A vector is what the client has given for it.
type vector struct {
	eventfd *foreign.FD // nil: none
	pending bool        // it was signalled without an eventfd
}

// set exchanges the eventfd of a vector; -1: none.
func (t *interrupts) set(v uint32, eventfd int) (err error) {
	var fresh *foreign.FD
	if eventfd >= 0 {
		n, derr := unix.FcntlInt(uintptr(eventfd), unix.F_DUPFD_CLOEXEC, 0)
		if derr == nil {
			fresh = foreign.NewFD(n)
		} else {
			err = fmt.Errorf("its eventfd cannot be used: %w", derr)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &t.vectors[v]
	t.drop(p)
	p.eventfd = fresh
	if fresh != nil && p.pending {
		p.pending = false
		foreign.Signal(fresh.Int())
	}
	return err
}

func (t *interrupts) drop(p *vector) {
	if p.eventfd != nil {
		t.unused = append(t.unused, p.eventfd)
		p.eventfd = nil
	}
}

// takeUnused returns the eventfds that queues do not have once they have been given those of
// their vectors.
func (t *interrupts) takeUnused() []*foreign.FD {
	t.mu.Lock()
	defer t.mu.Unlock()
	u := t.unused
	t.unused = nil
	return u
}

// signal sends the message of a vector. Any goroutine may call it.
func (t *interrupts) signal(v uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &t.vectors[v]
	if p.eventfd == nil {
		p.pending = true
		return
	}
	foreign.Signal(p.eventfd.Int())
}

// eventfd is what a queue with this vector notifies the driver with, nil for none.
func (t *interrupts) eventfd(v uint16) *foreign.FD {
	t.mu.Lock()
	defer t.mu.Unlock()
	if int(v) >= len(t.vectors) {
		return nil
	}
	return t.vectors[v].eventfd
}

func (t *interrupts) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.vectors {
		t.drop(&t.vectors[i])
	}
	clear(t.vectors)
}
