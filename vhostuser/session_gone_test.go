package vhostuser

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// own is the front-end's end of the session once more; the caller closes it.
func (p *peer) own() (fd int) {
	p.t.Helper()
	err := p.conn.control(func(n uintptr) (err error) {
		fd, err = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return fd
}

// ownEnds are the ways to send a session the other end of its own connection, of which fd
// is a duplicate.
var ownEnds = []struct {
	name string
	send func(p *peer, fd int)
}{
	{"half a header", func(p *peer, fd int) { p.raw([]byte{1, 0, 0}, fd) }},
	{"half a payload", func(p *peer, fd int) {
		p.raw(append(Header{SetVringCall, Version, 8}.Append(nil), 0, 0), fd)
	}},
	{"behind a whole message", func(p *peer, fd int) {
		p.raw(Header{GetFeatures, Version, 0}.Append(nil))
		p.raw([]byte{1}, fd)
	}},
	{"back channel", func(p *peer, fd int) { p.send(SetBackendReqFD, nil, fd) }},
	{"back channel, with an answer", func(p *peer, fd int) {
		_ = p.conn.Write(SetBackendReqFD, Version|FlagNeedReply, nil, fd)
	}},
	{"in the queue of the back channel", func(p *peer, fd int) {
		ends := nested(p.t, fd, 0)
		p.send(SetBackendReqFD, nil, ends)
		_ = unix.Close(ends)
	}},
	{"out of band in the queue of the back channel", func(p *peer, fd int) {
		ends := nested(p.t, fd, unix.MSG_OOB)
		p.send(SetBackendReqFD, nil, ends)
		_ = unix.Close(ends)
	}},
	{"a state on its way", func(p *peer, fd int) {
		p.send(SetDeviceStateFD, StateTransfer{Direction: StateLoad}.Append(nil), fd)
	}},
	{"in the queue of a state on its way", func(p *peer, fd int) {
		ends := nested(p.t, fd, 0)
		p.send(SetDeviceStateFD, StateTransfer{Direction: StateLoad}.Append(nil), ends)
		_ = unix.Close(ends)
	}},
	{"call", func(p *peer, fd int) { p.send(SetVringCall, VringFile{}.Append(nil), fd) }},
	{"out of band", func(p *peer, fd int) {
		if err := unix.Sendmsg(fd, []byte{1}, unix.UnixRights(fd), nil, unix.MSG_OOB); err != nil {
			p.t.Fatal(err)
		}
	}},
	{"behind answers that nobody reads", func(p *peer, fd int) {
		// So many that the session cannot send them, nor come to what stands behind them.
		wire := bytes.Repeat(Header{GetFeatures, Version, 0}.Append(nil), 100)
		for range 20 {
			p.raw(wire)
		}
		p.raw([]byte{1}, fd)
	}},
}

// nested is a socket that has fd in its queue, and whose other end is closed.
func nested(t testing.TB, fd int, flags int) int {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendmsg(ends[0], []byte{1}, unix.UnixRights(fd, ends[0]), nil, flags); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(ends[0])
	return ends[1]
}

func (p *peer) raw(b []byte, fds ...int) {
	p.t.Helper()
	if err := p.conn.WriteRaw(b, fds...); err != nil {
		p.t.Fatal(err)
	}
}

// keptOrNot is a front-end that has negotiated, of a session that is kept in the store, or
// of one that is not; the store is empty then.
func keptOrNot(t *testing.T, kept bool) (*peer, *shelf) {
	t.Helper()
	store := &shelf{fds: map[string]int{}}
	var p *peer
	if kept {
		p = keptPeer(t, store, new(fakeDevice))
	} else {
		p = connect(t, new(fakeDevice))
	}
	p.negotiate()
	return p, store
}

// A session ends when its front-end is gone, also where that has sent it the other end of
// its own connection, by whatever way: the session would hold itself open.
func TestOwnEndEndsTheSession(t *testing.T) {
	for _, kept := range []bool{false, true} {
		for _, way := range ownEnds {
			t.Run(fmt.Sprintf("%s, kept %v", way.name, kept), func(t *testing.T) {
				t.Parallel() // most wait for a time limit
				p, store := keptOrNot(t, kept)
				fd := p.own()
				way.send(p, fd)
				_ = unix.Close(fd)
				_ = p.leave() // returns when the session has ended
				if len(store.fds) != 0 {
					t.Errorf("still kept: %v", store.fds)
				}
			})
		}
	}
}

// A half message that a process has died over has a time limit in the next one as well.
func TestHalfMessageAcrossProcesses(t *testing.T) {
	store := &shelf{fds: map[string]int{}}
	p := keptPeer(t, store, new(fakeDevice))
	p.negotiate()
	fd := p.own()
	p.raw([]byte{1, 0}, fd)
	_ = unix.Close(fd)
	p.over(store, new(fakeDevice))
	if err := p.leave(); !errors.Is(err, errHalfMessage) {
		t.Errorf("the session ended with %v", err)
	}
	if len(store.fds) != 0 {
		t.Errorf("still kept: %v", store.fds)
	}
}

// The time limit is for a message that has begun: between two of them, and for one that
// comes in parts and ends in time, there is none.
func TestSlowMessages(t *testing.T) {
	for _, kept := range []bool{false, true} {
		t.Run(fmt.Sprintf("kept %v", kept), func(t *testing.T) {
			t.Parallel()
			p, _ := keptOrNot(t, kept)
			for _, b := range AppendU64(Header{SetFeatures, Version, 8}.Append(nil), needed|FeatureProtocol) {
				p.raw([]byte{b})
			}
			p.call(GetFeatures, nil)
			time.Sleep(MessageLimit + MessageLimit/4) // longer than a message may take
			p.call(GetFeatures, nil)
			if err := p.leave(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A socket that could hold something open is refused as a back channel, by name.
func TestBackChannelIsOneEndOfAPair(t *testing.T) {
	dev := new(fakeDevice)
	p := connect(t, dev)
	p.negotiate()
	socket := func(typ int) int {
		fd, err := unix.Socket(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		return fd
	}
	name := &unix.SockaddrUnix{Name: t.TempDir() + "/s"}
	listener, client := socket(unix.SOCK_STREAM), socket(unix.SOCK_STREAM)
	if err := errors.Join(unix.Bind(listener, name), unix.Listen(listener, 1), unix.Connect(client, name)); err != nil {
		t.Fatal(err)
	}
	tcp, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(tcp) })
	used := pair(t)
	if _, err := unix.Write(used[0], []byte("x")); err != nil {
		t.Fatal(err)
	}
	p.mustNot("it has to be a UNIX stream socket", SetBackendReqFD, nil, tcp)
	p.mustNot("it has to be a UNIX stream socket", SetBackendReqFD, nil, socket(unix.SOCK_DGRAM))
	p.mustNot("not connected", SetBackendReqFD, nil, socket(unix.SOCK_STREAM))
	p.mustNot("not connected", SetBackendReqFD, nil, listener)
	p.mustNot("is a connection to \""+name.Name+"\"", SetBackendReqFD, nil, client)
	p.mustNot("something waits to be read (1 bytes)", SetBackendReqFD, nil, used[1])
	good := pair(t)
	p.must(SetBackendReqFD, nil, good[1])
	if _, err := unix.SendmsgN(good[0], []byte("x"), unix.UnixRights(good[0]), nil, unix.MSG_NOSIGNAL); err != unix.EPIPE {
		t.Errorf("something comes through the back channel later: %v", err)
	}
	if !dev.change() {
		t.Error("not told")
	}
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// The memory of a session that has ended is given back behind it.
func TestMemoryIsFreedBehind(t *testing.T) {
	var later []func()
	near, far := socketPair(t)
	dev := new(fakeDevice)
	p := &peer{t: t, conn: NewConn(near), dev: dev, done: make(chan error, 1)}
	p.run(NewSession(far, dev, Options{Behind: func(f func()) { later = append(later, f) }}))
	p.negotiate()
	p.setUp(0)
	p.kick(0)
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
	mapped := func() bool {
		b, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(b), "memfd:guest")
	}
	if len(later) != 1 || !mapped() {
		t.Errorf("%d are to be called later, mapped: %v", len(later), mapped())
	}
	for _, f := range later {
		f()
	}
	if mapped() {
		t.Error("still mapped")
	}
}

// What is known of a front-end.
func TestPresence(t *testing.T) {
	p := connect(t, new(fakeDevice))
	p.negotiate()
	here := func() {
		t.Helper()
		got := p.s.Presence()
		for ; got == Busy; got = p.s.Presence() { // the session is still at the last answer
			time.Sleep(time.Millisecond)
		}
		if got != Here {
			t.Errorf("%d", got)
		}
	}
	here()
	held := p.own()
	defer func() { _ = unix.Close(held) }()
	_ = p.conn.Close()
	p.m.Close()
	here() // this process lives, and has it open
	p.s.Supersede()
	if err := <-p.done; err != nil {
		t.Error(err)
	}
	if got := p.s.Presence(); got != Left {
		t.Errorf("%d", got)
	}
	if n, err := unix.Read(held, make([]byte, 1)); n != 0 || err != nil && err != io.EOF && err != unix.ECONNRESET {
		t.Errorf("%d, %v", n, err)
	}
}
