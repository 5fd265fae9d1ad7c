package vhostuser

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vhostuser/handover"
)

// A shelf is a fd store.
type shelf struct {
	mu   sync.Mutex
	fds  map[string]int
	once bool // it has no open file twice, as systemd's
}

func (s *shelf) put(name string, fd int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if _, taken := s.fds[name]; taken {
		return fmt.Errorf("%s is there already", name)
	}
	for _, have := range s.fds {
		if s.once && isSame(have, n) {
			return unix.Close(n)
		}
	}
	s.fds[name] = n
	return nil
}

func (s *shelf) drop(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if fd, ok := s.fds[name]; ok {
		_ = unix.Close(fd)
		delete(s.fds, name)
	}
}

// kept is what the store gives to the next process.
func (s *shelf) kept(t testing.TB) handover.Stored {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	k := handover.Stored{}
	for name, fd := range s.fds {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		k[name] = foreign.NewFD(n)
	}
	return k
}

// A session that another process goes on with still logs what it writes, with the
// device knowing nothing of it, and still has the socket to tell of a changed
// configuration space.
func TestResumedSessionLogsAndTells(t *testing.T) {
	store := &shelf{fds: map[string]int{}}
	dev := new(fakeDevice)
	near, far := socketPair(t)
	opt := Options{Store: &handover.Store{Put: store.put, Drop: store.drop}}
	p := &peer{t: t, conn: NewConn(near), dev: dev, done: make(chan error, 1)}
	p.s = NewSession(far, dev, opt)
	go func() { p.done <- p.s.Run() }()
	p.negotiate()
	p.setUp(0)
	p.kick(0)
	log, back := memFD(t, 4096), pair(t)
	p.call(SetLogBase, LogArea{64, 0}.Append(nil), log)
	p.must(SetFeatures, AppendU64(nil, needed|FeatureProtocol|FeatureLogAll))
	p.must(SetBackendReqFD, nil, back[1])
	p.s.Suspend()
	if err := <-p.done; err != nil {
		t.Fatal(err)
	}
	dev = new(fakeDevice)
	s, err := ResumeSession(store.kept(t), dev, opt)
	if err != nil {
		t.Fatal(err)
	}
	p.s, p.dev = s, dev
	go func() { p.done <- s.Run() }()
	p.wantLog(true, 1<<64-1)
	if got := dev.told(); got != "features 0x100020000; start 0 at 7" {
		t.Errorf("the device was told %q", got)
	}
	b := make([]byte, 64)
	if !dev.change() {
		t.Error("the front-end is not told of a change")
	}
	if n, err := unix.Read(back[0], b); err != nil || !bytes.Equal(b[:n], configChange) {
		t.Errorf("read %x, %v", b[:max(n, 0)], err)
	}
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
	if n := len(store.fds); n != 0 {
		t.Errorf("%d descriptors stay in the store: %v", n, store.fds)
	}
}
