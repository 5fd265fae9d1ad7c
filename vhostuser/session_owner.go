package vhostuser

import (
	"errors"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vhostuser/inflight"
)

// How a session begins again on the same connection, and how all that a front-end has set
// up is released.

// mayPrecedeOwner reports whether a front-end may send a message before its SET_OWNER: QEMU
// negotiates protocol features and opens the back channel first (hw/virtio/vhost-user.c,
// vhost_user_backend_init; hw/virtio/vhost.c, vhost_dev_init).
func (r Request) mayPrecedeOwner() bool {
	switch r {
	case GetFeatures, GetProtocolFeatures, SetProtocolFeatures, GetQueueNum, GetMaxMemSlots, SetBackendReqFD, SetOwner:
		return true
	}
	return false
}

// setOwner begins the session. A second SET_OWNER on the same connection begins it again, for
// another device: QEMU's device_add after a device_del on the same chardev. It releases all
// that the former owner has set up. The new owner negotiates protocol features and the back
// channel before SET_OWNER: those remain if they came after the last message of the former
// one.
func (s *Session) setOwner(*Message) ([]byte, error) {
	if !s.state.owned {
		s.state.owned = true
		return nil, nil
	}
	s.log(LevelInfo, "begins again on the same connection (SET_OWNER)")
	s.release(false, s.state.protocolNew && s.state.backNew)
	old := s.state
	s.state = state{owned: true}
	if old.protocolNew {
		s.state.protocol, s.state.protocolSet = old.protocol, old.protocolSet
	}
	for i := range s.rings {
		s.state.rings[i].life = nextLife(old.rings[i].life)
		s.rings[i] = ring{}
	}
	s.loggedFeatures, s.memoryGiven, s.loggedNoMemory, s.loggedSlowMemory = false, false, false, false
	if s.saver == nil {
		return nil, nil
	}
	return nil, s.saveRecord()
}

// resetOwner disables all rings, which is one of the two things that the
// protocol still recommends for this deprecated message. The next SET_OWNER begins the
// session again.
func (s *Session) resetOwner(*Message) ([]byte, error) {
	for i := range s.rings {
		s.pause(i)
		s.state.rings[i].enabled = false
	}
	return nil, nil
}

// release stops the rings, releases all that the front-end has set up (its back channel only
// if that does not stay), and resets the device. leaves: the next process resumes the
// session, and what is in flight is left to it.
func (s *Session) release(leaves, backStays bool) {
	if !backStays {
		s.closeBack()
	}
	s.endTransfer()
	if !leaves && !s.held {
		s.dev.Adopt(nil) // rings that run may wait for requests that were in flight in rings that never started
	}
	for i := range s.rings {
		s.pause(i)
		r := &s.rings[i]
		for _, f := range []**foreign.FD{&r.kick, &r.call, &r.err} {
			s.drop(f)
		}
	}
	if leaves || s.held {
		s.dev.Leave() // the next process resumes their requests, or the front-end returns with the record
	}
	s.freeBehind(s.regions)
	s.regions, s.mem = nil, nil
	s.freeLog()
	s.drop(&s.dirty.call)
	s.dev.Reset()
	s.dev.BeginFrontEnd()
	record := s.record
	s.record, s.pass = nil, nil
	if err := record.Close(); err != nil {
		s.log(LevelWarn, "%v", err)
	}
}

// saveRecord makes a record of requests in flight that is persisted for the next process.
func (s *Session) saveRecord() error {
	r, err := inflight.New(len(s.rings), inflight.MaxRingSize)
	if err != nil {
		return err
	}
	if err := s.saver.Save(r.File()); err != nil {
		return errors.Join(err, r.Close())
	}
	s.record = r
	return nil
}
