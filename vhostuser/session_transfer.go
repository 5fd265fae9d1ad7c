package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
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
	file *os.File      // of a state that comes in; receive closes it
	done chan struct{} // closed once data and err are there
	data []byte
	err  error
}

// setDeviceStateFD begins a transfer. What is wrong is said in the answer, which
// has a place for it.
func (s *Session) setDeviceStateFD(m *Message) ([]byte, error) {
	t, err := s.beginTransfer(m)
	if err != nil {
		s.strange = true
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
	kind, err := stateSlot.inspect(m.Files[0])
	if err != nil {
		return nil, err
	}
	pipe := kind == foreign.Pipe
	if p.Direction == StateLoad && !pipe {
		// Nothing is written to it. A front-end that sends its own end of the session ends
		// that: it would stay open for as long as the state is waited for.
		_ = unix.Shutdown(fd, unix.SHUT_WR)
	}
	own, err := ownFile(fd, pipe, p.Direction)
	if err != nil {
		return nil, err
	}
	t := &transfer{load: p.Direction == StateLoad, done: make(chan struct{})}
	if !t.load {
		defer foreign.Close(own)
		// A pipe or socket that nobody has filled has room for it.
		data := s.dev.SaveState()
		n, err := foreign.WriteNoWait(own, data)
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
	t.file = os.NewFile(uintptr(own), "device state")
	go t.receive()
	return t, nil
}

// ownFile opens a pipe or socket of the front-end's anew, non-blocking: O_NONBLOCK is
// ours then. A pipe of another user's, and a socket, can only be duplicated, and may
// block when the front-end wants it to; how they are read takes care of that, but for
// pipes before Linux 6.4.
func ownFile(fd int, pipe bool, direction uint32) (int, error) {
	how := unix.O_WRONLY
	if direction == StateLoad {
		how = unix.O_RDONLY
	}
	// One that was opened for the other direction is wrong, and stays so.
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); pipe && err == nil && flags&unix.O_ACCMODE == how {
		if own, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), how|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
			return own, nil
		}
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return -1, fmt.Errorf("its descriptor cannot be set to non-blocking: %w", err)
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("its descriptor cannot be duplicated: %w", err)
	}
	return own, nil
}

// Read reads what is there, and waits for it in the runtime, which goes by the
// file's deadline.
func (t *transfer) Read(b []byte) (n int, err error) {
	raw, err := t.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	rerr := raw.Read(func(fd uintptr) bool {
		for err = unix.EINTR; err == unix.EINTR; {
			n, err = foreign.ReadNoWait(int(fd), b)
		}
		return err != unix.EAGAIN
	})
	switch {
	case rerr != nil:
		return 0, rerr
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// receive takes in a state, to its end whatever its length: the front-end must not
// get stuck on writing more than any state has.
func (t *transfer) receive() {
	defer close(t.done)
	defer func() { _ = t.file.Close() }()
	b := make([]byte, maxState+1)
	n, err := io.ReadFull(t, b)
	if err == nil {
		_, err = io.Copy(io.Discard, t)
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
	t.until(time.Now().Add(statePatience))
	if s.closed.Load() {
		t.interrupt() // it may have come before the line above
	}
	if err := t.wait(); err != nil {
		return err
	}
	if t.err != nil {
		return t.err
	}
	if i := s.anyRunning(); i >= 0 {
		return fmt.Errorf("ring %d runs: no state can be loaded any more", i)
	}
	return s.dev.LoadState(t.data)
}

// until ends the wait for a state at a certain time. It does not close the file, which
// would wait for whoever reads it. An error means that nobody does any more.
func (t *transfer) until(end time.Time) {
	if t != nil && t.file != nil {
		_ = t.file.SetReadDeadline(end)
	}
}

// interrupt ends a wait for a state. Any goroutine may call it.
func (t *transfer) interrupt() { t.until(time.Unix(1, 0)) }

// wait waits for the end of a transfer, which has a deadline. Where that cannot end a
// read (see ownFile), the front-end ends it sooner or later, by dying if need be.
func (t *transfer) wait() error {
	late := time.NewTimer(statePatience + time.Second)
	defer late.Stop()
	select {
	case <-t.done:
		return nil
	case <-late.C:
		return errors.New("reading the device's state: its descriptor blocks, as the front-end wants it to")
	}
}

// endTransfer gives back what a transfer has.
func (s *Session) endTransfer() {
	t := s.transfer.Swap(nil)
	t.interrupt()
	if t == nil {
		return
	}
	if err := t.wait(); err != nil {
		s.warn("%v: it is left to itself", err)
	}
}
