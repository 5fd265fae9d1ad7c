package vduse

import "testing"

// A device that no process serves is reset, and can do nothing else.
func TestDismiss(t *testing.T) {
	g := newGuest(t, 1)
	g.open()
	ended := make(chan struct{})
	go func() { defer close(ended); Dismiss(g) }()
	if g.setStatus(0) || !g.setStatus(1) {
		t.Error("a status is set")
	}
	if g.ask(Request{Type: UpdateIOTLB, Last: lastAddr}).Failed || !g.ask(Request{Type: GetVQState}).Failed {
		t.Error("messages")
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	<-ended
}
