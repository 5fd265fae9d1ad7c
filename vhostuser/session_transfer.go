package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The messages by which what the device knows travels to another host ("Migrating
// back-end state"): the front-end gives one end of a pipe, the state goes through
// it, and the front-end asks whether all went well.

const (
	// maxState bounds what is kept of a state that comes in, in bytes.
	maxState = 4096
	// statePatience is how long CHECK_DEVICE_STATE waits for the end of a state that
	// the front-end should have closed before.
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

// A transfer is a state on its way.
type transfer struct {
	load bool
	file *os.File      // of a state that comes in
	done chan struct{} // closed once data and err are there
	data []byte
	err  error
}

// setDeviceStateFD begins a transfer. What is wrong is said in the answer, which
// has a place for it.
func (s *Session) setDeviceStateFD(m *Message) ([]byte, error) {
	t, err := s.beginTransfer(m)
	if err != nil {
		s.warn("refused %v: %v", m, err)
		return AppendU64(nil, stateFailed|stateNoFD), nil
	}
	s.endTransfer()
	s.transfer.Store(t)
	return AppendU64(nil, stateNoFD), nil
}

func (s *Session) beginTransfer(m *Message) (*transfer, error) {
	p, err := ParseStateTransfer(m.Payload)
	if err != nil {
		return nil, err
	}
	if i := s.anyRunning(); i >= 0 {
		return nil, fmt.Errorf("ring %d runs: a state is that of a device whose rings are all stopped", i)
	}
	fd := m.Files[0].Int()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("fstat of its descriptor: %w", err)
	}
	if typ := st.Mode & unix.S_IFMT; typ != unix.S_IFIFO && typ != unix.S_IFSOCK {
		return nil, fmt.Errorf("its descriptor is neither a pipe nor a socket (file type %#o)", typ)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("its descriptor cannot be set to non-blocking: %w", err)
	}
	t := &transfer{load: p.Direction == StateLoad, done: make(chan struct{})}
	if !t.load {
		// A pipe or socket that nobody has filled has room for it.
		data := s.dev.SaveState()
		n, err := unix.Write(fd, data)
		if err == nil && n != len(data) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return nil, fmt.Errorf("writing the device's state: %w", err)
		}
		if err := s.dev.Yield(); err != nil { // it is to be loaded elsewhere
			return nil, err
		}
		close(t.done)
		return t, nil
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("its descriptor cannot be duplicated: %w", err)
	}
	t.file = os.NewFile(uintptr(own), "device state")
	go t.receive()
	return t, nil
}

// receive takes in a state, to its end whatever its length: the front-end must not
// get stuck on writing more than any state has.
func (t *transfer) receive() {
	defer close(t.done)
	b := make([]byte, maxState+1)
	n, err := io.ReadFull(t.file, b)
	if err == nil {
		_, err = io.Copy(io.Discard, t.file)
	} else if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil
	}
	switch {
	case err != nil:
		t.err = fmt.Errorf("reading the device's state: %w", err)
	case n > maxState:
		t.err = fmt.Errorf("a device's state of more than %d bytes: it is none of this back-end's", maxState)
	}
	t.data = b[:n]
}

// checkDeviceState says how the transfer went; a state that came in takes effect
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
	if err := t.file.SetReadDeadline(time.Now().Add(statePatience)); err != nil {
		return fmt.Errorf("reading the device's state: %w", err)
	}
	<-t.done
	if t.err != nil {
		return t.err
	}
	if i := s.anyRunning(); i >= 0 {
		return fmt.Errorf("ring %d runs: no state can be loaded any more", i)
	}
	return s.dev.LoadState(t.data)
}

// interrupt ends a wait for a state. Any goroutine may call it.
func (t *transfer) interrupt() {
	if t != nil && t.file != nil {
		_ = t.file.Close() // a second one reports an error that means nothing
	}
}

// endTransfer gives back what a transfer has.
func (s *Session) endTransfer() {
	t := s.transfer.Swap(nil)
	t.interrupt()
	if t != nil {
		<-t.done
	}
}
