package vhostuser

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

// The messages by which what the device knows travels to another host ("Migrating
// back-end state"): the front-end gives one end of a pipe, the state goes through
// it, and the front-end asks whether all went well.

const (
	// statePatience is how long a session waits for a state to be taken, or for the end of
	// one that the front-end should have closed before it asks (CHECK_DEVICE_STATE).
	statePatience = 5 * time.Second

	stateFailed = 1      // in an answer
	stateNoFD   = 1 << 8 // in an answer: the front-end's descriptor is used
)

// Directions of a transfer.
const (
	StateSave uint32 = iota // from the back-end
	StateLoad               // to the back-end
)

// StateTransfer is the payload of SET_DEVICE_STATE_FD.
type StateTransfer struct {
	Direction uint32 // StateSave or StateLoad
	Phase     uint32 // 0: the device and all its rings are stopped
}

// ParseStateTransfer reads a StateTransfer.
func ParseStateTransfer(b []byte) (StateTransfer, error) {
	if err := wantSize(b, u64Size); err != nil {
		return StateTransfer{}, err
	}
	t := StateTransfer{le.Uint32(b), le.Uint32(b[4:])}
	if t.Direction > StateLoad || t.Phase != 0 {
		return StateTransfer{}, fmt.Errorf("direction %d, phase %d: only saving (0) and loading (1) in the stopped phase (0) are known", t.Direction, t.Phase)
	}
	return t, nil
}

// Append appends the wire form to b.
func (t StateTransfer) Append(b []byte) []byte {
	return le.AppendUint32(le.AppendUint32(b, t.Direction), t.Phase)
}

// A transfer is a state in transfer. A carrier reads or writes it: a process that holds the
// lock of the pipe, or socket, blocks all that read, write or close it (foreign.Transfer).
type transfer struct {
	load    bool
	carrier *foreign.Transfer
	stop    chan struct{} // closed to end a wait
	once    sync.Once
}

// setDeviceStateFD begins a transfer. The answer has a bit that reports an error.
func (s *Session) setDeviceStateFD(m *Message) ([]byte, error) {
	if err := s.beginTransfer(m); err != nil {
		s.strange = true
		s.warn("refused %v: %v", m, err)
		return AppendU64(nil, stateFailed|stateNoFD), nil
	}
	return AppendU64(nil, stateNoFD), nil
}

func (s *Session) beginTransfer(m *Message) error {
	p, err := ParseStateTransfer(m.Payload)
	if err != nil {
		return err
	}
	if i := s.anyRunning(); i >= 0 {
		return fmt.Errorf("ring %d runs: a state is that of a device whose rings are all stopped", i)
	}
	kind, err := stateSlot.inspect(m.Files[0])
	if err != nil {
		return err
	}
	s.endTransfer()
	t := &transfer{load: p.Direction == StateLoad, stop: make(chan struct{})}
	if t.load {
		if kind == foreign.UnixStream {
			// Nothing is written to it. A front-end that sends its own end of the session ends
			// that: it would stay open for as long as the state is waited for.
			_ = unix.Shutdown(m.Files[0].Int(), unix.SHUT_WR)
		}
		t.carrier, err = foreign.Load(m.Take(0).Release())
	} else {
		t.carrier, err = foreign.Save(m.Take(0).Release(), s.dev.SaveState())
	}
	if err != nil {
		return err
	}
	s.transfer.Store(t)
	if s.closed.Load() {
		t.interrupt() // it may have come before the line above
	}
	if t.load {
		return nil
	}
	if _, err := t.wait(s.statePatience); err != nil {
		s.endTransfer()
		return fmt.Errorf("writing the device's state: %w", err)
	}
	if err := s.dev.Release(); err != nil { // it is to be loaded elsewhere
		s.endTransfer()
		return err
	}
	return nil
}

// checkDeviceState reports how the transfer ended; a state that came in takes effect
// now.
func (s *Session) checkDeviceState(m *Message) ([]byte, error) {
	if err := s.finishTransfer(); err != nil {
		s.warn("refused %v: %v", m, err)
		return AppendU64(nil, stateFailed), nil
	}
	return AppendU64(nil, 0), nil
}

func (s *Session) finishTransfer() error {
	t := s.transfer.Load()
	if t == nil {
		return errors.New("no transfer has begun; one that another process had begun has ended with it")
	}
	defer s.endTransfer()
	if !t.load {
		return nil
	}
	data, err := t.wait(s.statePatience)
	switch {
	case err != nil:
		return fmt.Errorf("reading the device's state: %w", err)
	case len(data) > foreign.MaxState:
		return fmt.Errorf("a device's state of more than %d bytes: it is none of this back-end's", foreign.MaxState)
	}
	if i := s.anyRunning(); i >= 0 {
		return fmt.Errorf("ring %d runs: no state can be loaded any more", i)
	}
	return s.dev.LoadState(data)
}

// interrupt ends a wait for a state. Any goroutine may call it.
func (t *transfer) interrupt() {
	if t != nil {
		t.once.Do(func() { close(t.stop) })
	}
}

// wait waits for the end of a transfer, which may never come.
func (t *transfer) wait(patience time.Duration) ([]byte, error) {
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-t.carrier.Done():
		return t.carrier.Result()
	case <-t.stop:
		return nil, errors.New("the session ends")
	case <-late.C:
		return nil, fmt.Errorf("not done within %v: the front-end has not ended it, or blocks its descriptor", patience)
	}
}

// endTransfer releases what a transfer uses. Where its descriptor blocks, that is left
// to the process which has it.
func (s *Session) endTransfer() {
	t := s.transfer.Swap(nil)
	if t == nil {
		return
	}
	t.interrupt()
	t.carrier.Abort()
	late := time.NewTimer(time.Second)
	defer late.Stop()
	select {
	case <-t.carrier.Done():
	case <-late.C:
		s.warn("the descriptor of the device's state blocks: it is left to a process zvhost-carrier")
	}
}
