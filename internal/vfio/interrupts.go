package vfio

import (
	"sync"

	"github.com/zvhost/zvhost/internal/foreign"
)

// interrupts are the MSI-X vectors. Workers write the eventfds of queues themselves.
type interrupts struct {
	mu      sync.Mutex // guards what follows; held while an eventfd is signalled
	vectors []vector
}

// A vector is what the client has given for it.
type vector struct {
	eventfd int  // lent; 0: none
	pending bool // it was signalled without an eventfd
}

// set exchanges the eventfd of a vector; -1: none. The old one is not used any more.
func (t *interrupts) set(v uint32, eventfd int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &t.vectors[v]
	p.eventfd = max(eventfd, 0)
	if p.eventfd > 0 && p.pending {
		p.pending = false
		foreign.Signal(p.eventfd)
	}
}

// signal sends the message of a vector. Any goroutine may call it.
func (t *interrupts) signal(v uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &t.vectors[v]
	if p.eventfd == 0 {
		p.pending = true
		return
	}
	foreign.Signal(p.eventfd)
}

// eventfd is what a queue with this vector notifies the driver with, -1 for none.
func (t *interrupts) eventfd(v uint16) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if int(v) >= len(t.vectors) || t.vectors[v].eventfd == 0 {
		return -1
	}
	return t.vectors[v].eventfd
}

func (t *interrupts) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.vectors)
}
