package vduse

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/virtio/transport"
)

// Features that the kernel has a rule for (features_is_valid in drivers/vdpa/vdpa_user/vduse_dev.c).
const (
	// featureAccessPlatform must be offered: the driver's addresses are the IOTLB's.
	featureAccessPlatform uint64 = 1 << 33
	// featureBlkConfigWCE must not: drivers cannot write to the configuration space.
	featureBlkConfigWCE uint64 = 1 << 11

	featureEventIdx   uint64 = 1 << 29
	featureRingPacked uint64 = 1 << 34
)

// Bits of the device status (virtio, "Device Status Field").
const (
	statusDriverOK   uint8 = 4
	statusFeaturesOK uint8 = 8
)

// Features are those that a device over VDUSE offers of what dev offers.
func Features(dev transport.Device) uint64 {
	return dev.Features()&^featureBlkConfigWCE | featureAccessPlatform
}

// Level is how much a log line matters.
type Level uint8

// The levels of a session's log lines.
const (
	LevelDebug Level = iota // each message in words
	LevelInfo               // what happens once in a session's life
	LevelWarn               // something is wrong
)

// Options of a session.
type Options struct {
	Log   func(level Level, format string, args ...any)
	Space int // bytes of the configuration space
	// Attached says whether the device is on the vDPA bus. When it has been there and is not
	// any more, the session ends.
	Attached func() bool
}

// A Session serves one device of the kernel's, from the time that it is made, or that another
// process has left it, until it is removed or left to the next process.
type Session struct {
	kernel Kernel
	dev    transport.Device
	store  *Store
	opt    Options

	state   State
	memory  memory
	rings   []ring
	changed chan struct{} // the configuration space has changed
	doing   string        // for the log, where it takes long
	resumed bool          // the first start goes on where another process has left the rings
	waits   bool          // DRIVER_OK is set, and memory of a ring is missing
}

// ErrRemoved is the end of a session whose device was removed from the bus.
var ErrRemoved = errors.New("the device was removed")

// New makes the session of a device that was just made, and its state. Run must be called.
func New(k Kernel, dev transport.Device, dir, name string, size uint16, opt Options) (*Session, error) {
	s := newSession(k, dev, opt)
	s.state = State{Queues: dev.Queues(), Size: size}
	s.state.Device, s.state.Choices = dev.State()
	var err error
	if s.store, err = NewStore(dir, name, &s.state); err != nil {
		return nil, err
	}
	return s, nil
}

// Resume makes the session of a device that another process has served. It fails with
// ErrNoState if nothing is stored about it. Run must be called, and goes on with the rings.
func Resume(k Kernel, dev transport.Device, dir, name string, opt Options) (*Session, error) {
	s := newSession(k, dev, opt)
	var err error
	if s.store, s.state, err = OpenStore(dir, name); err != nil {
		return nil, err
	}
	if err = s.resumeDevice(); err != nil {
		dev.Reset()
		return nil, errors.Join(err, s.store.Close())
	}
	return s, nil
}

func newSession(k Kernel, dev transport.Device, opt Options) *Session {
	s := &Session{kernel: k, dev: dev, opt: opt, memory: memory{kernel: k}, rings: make([]ring, dev.Queues()), changed: make(chan struct{}, 1)}
	for i := range s.rings {
		s.rings[i].kick = -1
	}
	return s
}

// resumeDevice makes the device what the driver was shown, and what it has accepted. It does
// not change what is stored.
func (s *Session) resumeDevice() error {
	if s.state.Queues != len(s.rings) {
		return fmt.Errorf("the device was made with %d queues: start zvhost with --queues=%d, or remove the device and make it anew", s.state.Queues, s.state.Queues)
	}
	if s.state.Status&statusFeaturesOK != 0 {
		if extra := s.state.Features &^ Features(s.dev); extra != 0 {
			return fmt.Errorf("its driver has accepted features %#x, which are not offered any more: start zvhost with the same disk and options", extra)
		}
		if err := s.dev.SetFeatures(s.state.Features); err != nil {
			return err
		}
	}
	return s.dev.Restore(s.state.Device, s.state.Choices)
}

// Run serves the device until ctx ends or the device is removed, which is ErrRemoved. All other
// errors say why the device cannot be served. After the end of ctx the device is left to the
// next process: no request is in flight then, and the state is stored.
func (s *Session) Run(ctx context.Context) error {
	s.dev.Watch(func() bool {
		select {
		case s.changed <- struct{}{}:
		default: // it is not looked at yet
		}
		return true
	})
	messages, stop := s.read()
	err := s.run(ctx, messages)
	s.dev.Watch(nil)
	s.doing = "the end of the daemon"
	if errors.Is(err, ErrRemoved) {
		s.doing = "the removal of the device"
	}
	s.stopAll()
	if s.resumed { // nothing was started
		s.dev.Leave()
	} else {
		err = errors.Join(err, s.save())
	}
	stop() // the kernel gives what was not answered to the next process, which needs the state
	err = errors.Join(err, s.memory.drop(0, lastAddr), s.store.Close())
	s.dev.Reset()
	s.dev.BeginFrontEnd()
	return err
}

func (s *Session) run(ctx context.Context, messages <-chan message) error {
	if err := s.showConfig(); err != nil {
		return err
	}
	attached := s.state.Status != 0
	s.resumed = s.state.Status&statusDriverOK != 0
	if s.resumed {
		s.doing = "the start of the queues of the process before"
		if err := s.startAll(); err != nil {
			return err
		}
	}
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.changed:
			if err := errors.Join(s.showConfig(), s.save()); err != nil {
				return err
			}
		case <-look.C:
			if attached && !s.opt.Attached() {
				return ErrRemoved
			}
			attached = attached || s.opt.Attached()
		case m := <-messages:
			if m.err != nil {
				return m.err
			}
			if err := s.serve(m.request); err != nil {
				return err
			}
		}
	}
}

// A message is a request of the kernel's, or why there are no more.
type message struct {
	request Request
	err     error
}

// read reads messages until stop is called, which closes the kernel.
func (s *Session) read() (messages <-chan message, stop func()) {
	out, done, ended := make(chan message), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		b := make([]byte, RequestBytes)
		for {
			var m message
			n, err := s.kernel.Read(b)
			if err == nil {
				m.request, err = ParseRequest(b[:n])
			}
			m.err = err
			select {
			case out <- m:
			case <-done:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return out, func() {
		close(done)
		_ = s.kernel.Close() // which ends Read
		<-ended
	}
}

// serve acts on a message and answers it. An error ends the session.
func (s *Session) serve(r Request) error {
	s.doing = r.Type.String()
	s.opt.Log(LevelDebug, "%v", r)
	a := Response{ID: r.ID}
	var err error
	switch r.Type {
	case GetVQState:
		a.Queue = r.Queue
		a.State, err = s.queueState(r.Queue)
	case SetStatus:
		err = s.setStatus(r.Status)
	case UpdateIOTLB:
		err = s.updateMemory(r.Start, r.Last)
	default:
		err = errors.New("is not known to this zvhost")
	}
	if err != nil {
		a.Failed = true
		s.opt.Log(LevelWarn, "%v: %v", r, err)
	}
	// Before the answer: a message that was answered does not come again.
	if err := s.save(); err != nil {
		return err
	}
	if _, err := s.kernel.Write(a.Append(nil)); err != nil && !errors.Is(err, unix.ENOENT) {
		// ENOENT: the kernel does not wait for it any more.
		return fmt.Errorf("answering %v: %w", r, err)
	}
	return nil
}

// save stores the state.
func (s *Session) save() error {
	s.state.Device, s.state.Choices = s.dev.State()
	return s.store.Save(&s.state)
}

// setStatus is SET_STATUS. An error keeps the kernel from setting the status.
func (s *Session) setStatus(status uint8) error {
	if status == 0 {
		return s.reset()
	}
	set := status &^ s.state.Status
	if set&statusFeaturesOK != 0 {
		if err := s.takeFeatures(); err != nil {
			return err
		}
	}
	was := s.state.Status
	s.state.Status = status
	if set&statusDriverOK != 0 {
		// The status is stored before rings start: a process that comes when requests are in
		// flight, and this message is not answered, goes on with them.
		if err := s.startAll(); err != nil {
			s.stopAll()
			s.state.Status = was
			return err
		}
	}
	return nil
}

// takeFeatures gives the device what the driver has accepted.
func (s *Session) takeFeatures() error {
	f, err := s.kernel.Features()
	if err != nil {
		return fmt.Errorf("reading the driver's features: %w", err)
	}
	if extra := f &^ Features(s.dev); extra != 0 {
		return fmt.Errorf("its driver accepts features %#x that were not offered", extra)
	}
	f &^= featureAccessPlatform
	if err := s.dev.SetFeatures(f); err != nil {
		return err
	}
	s.state.Features = f
	return nil
}

// reset puts device and rings back to their beginning. The kernel takes the memory of rings
// back without another word, and gives it to others.
func (s *Session) reset() error {
	s.dev.Adopt(nil)
	s.stopAll()
	err := s.memory.drop(0, lastAddr)
	s.state.Status, s.state.Features, s.waits = 0, 0, false
	clear(s.state.Bases[:])
	for i := range s.rings {
		s.rings[i].ours = false
	}
	s.dev.Reset()
	return err
}

// showConfig gives the kernel the configuration space as it is now, and has the driver look.
func (s *Session) showConfig() error {
	space := make([]byte, s.opt.Space)
	if err := s.dev.ReadConfig(space, 0); err != nil {
		return err
	}
	sum := crc32.ChecksumIEEE(space)
	if sum == s.state.Shown {
		return nil // a driver that looks for nothing reads all zones
	}
	if err := s.kernel.SetConfig(0, space); err != nil {
		return fmt.Errorf("showing the kernel the configuration space: %w", err)
	}
	s.state.Shown = sum
	// EINVAL: no driver, or one that has not come to DRIVER_OK, and reads all of it later.
	if err := s.kernel.ConfigInterrupt(); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("a configuration interrupt: %w", err)
	}
	return nil
}
