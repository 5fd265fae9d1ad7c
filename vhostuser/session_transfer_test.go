package vhostuser

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"
)

// pipe makes a pipe, closed at the end of the test.
func pipe(t *testing.T) (r, w int) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Close(fds[0])
		_ = unix.Close(fds[1])
	})
	return fds[0], fds[1]
}

// number is the number that a message is answered with.
func (p *peer) number(r Request, payload []byte, fds ...int) uint64 {
	p.t.Helper()
	v, err := ParseU64(p.call(r, payload, fds...))
	if err != nil {
		p.t.Fatal(err)
	}
	return v
}

// "Migrating back-end state": saved through the front-end's pipe, which the
// back-end closes at the end, and loaded through another.
func TestSessionState(t *testing.T) {
	dev := new(fakeDevice)
	p := connect(t, dev)
	p.negotiate()
	r, w := pipe(t)
	if v := p.number(SetDeviceStateFD, []byte{0, 0, 0, 0, 0, 0, 0, 0}, w); v != 0x100 {
		t.Fatalf("answer %#x, not done with our descriptor", v)
	}
	b := make([]byte, 100)
	n, err := unix.Read(r, b)
	if n = max(n, 0); string(b[:n]) != "all that it knows" {
		t.Fatalf("read %q, %v", b[:n], err)
	}
	if v := p.number(CheckDeviceState, nil); v != 0 {
		t.Errorf("answer %#x", v)
	}
	if v := p.number(CheckDeviceState, nil); v != 1 || !p.logged(LevelWarn, "no transfer has begun") {
		t.Errorf("a check of nothing: %#x", v)
	}

	load := func(state string) uint64 {
		t.Helper()
		r, w := pipe(t)
		if v := p.number(SetDeviceStateFD, []byte{1, 0, 0, 0, 0, 0, 0, 0}, r); v != 0x100 {
			t.Fatalf("answer %#x", v)
		}
		out := []byte(state)
		for len(out) > 0 { // the session has to keep reading
			n, err := unix.Write(w, out)
			if err != nil && err != unix.EAGAIN {
				t.Fatal(err)
			}
			out = out[max(n, 0):]
		}
		if err := unix.Dup3(r, w, unix.O_CLOEXEC); err != nil { // closes w, whose number stays taken
			t.Fatal(err)
		}
		return p.number(CheckDeviceState, nil)
	}
	p.call(GetFeatures, nil)
	dev.told()
	if v := load("all that it knows"); v != 0 {
		t.Errorf("answer %#x: %q", v, p.logs)
	}
	p.tells("loaded")
	if v := load("something else"); v != 1 || !p.logged(LevelWarn, `what is "something else"`) {
		t.Errorf("answer %#x: %q", v, p.logs)
	}
	if v := load(string(bytes.Repeat([]byte("long"), 1<<16))); v != 1 || !p.logged(LevelWarn, "more than 4096 bytes") {
		t.Errorf("answer %#x: %q", v, p.logs)
	}
	p.tells("")

	// A second transfer takes the place of the first, and one that is not finished
	// ends with the session.
	for range 2 {
		r, _ := pipe(t)
		if v := p.number(SetDeviceStateFD, []byte{1, 0, 0, 0, 0, 0, 0, 0}, r); v != 0x100 {
			t.Fatalf("answer %#x", v)
		}
	}
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// The session's owner does not wait for a state that never ends.
func TestSessionStateInterrupted(t *testing.T) {
	p := connect(t, new(fakeDevice))
	p.negotiate()
	r, _ := pipe(t)
	p.number(SetDeviceStateFD, []byte{1, 0, 0, 0, 0, 0, 0, 0}, r)
	p.send(CheckDeviceState, nil)
	p.s.Close()
	if err := <-p.done; err != nil {
		t.Errorf("ended with %v", err)
	}
	_ = p.conn.Close()
	p.m.Close()
}

// A front-end that clears O_NONBLOCK, and does not end the state, gets nobody stuck:
// neither the end of the session, nor the answer once there is one.
func TestSessionStateBlocks(t *testing.T) {
	for _, kind := range []string{"pipe", "socket"} {
		for _, check := range []bool{true, false} {
			p := connect(t, new(fakeDevice))
			p.negotiate()
			r, w := blockingEnds(t, kind)
			if v := p.number(SetDeviceStateFD, StateTransfer{StateLoad, 0}.Append(nil), r); v != stateNoFD {
				t.Fatalf("%s: answer %#x", kind, v)
			}
			if err := unix.SetNonblock(r, false); err != nil {
				t.Fatal(err)
			}
			if _, err := unix.Write(w, []byte("x")); err != nil {
				t.Fatal(err)
			}
			for n := 1; n > 0; { // until the session has read it, and reads on
				var err error
				if n, err = unix.IoctlGetInt(r, unix.TIOCINQ); err != nil {
					t.Fatal(err)
				}
			}
			if check {
				p.send(CheckDeviceState, nil)
				if err := unix.Dup3(r, w, unix.O_CLOEXEC); err != nil { // closes w, whose number stays taken
					t.Fatal(err)
				}
				if v, err := ParseU64(p.answer(CheckDeviceState)); v != stateFailed || err != nil || !p.logged(LevelWarn, `what is "x"`) {
					t.Errorf("%s: answer %#x, %v: %q", kind, v, err, p.logs)
				}
				if err := p.leave(); err != nil {
					t.Error(err)
				}
				continue
			}
			p.send(CheckDeviceState, nil)
			p.s.Close()
			if err := <-p.done; err != nil {
				t.Errorf("%s: ended with %v", kind, err)
			}
			_ = p.conn.Close()
			p.m.Close()
		}
	}
}

// What is wrong with a transfer is said in its answer, and the session goes on.
func TestSessionStateRefuses(t *testing.T) {
	p := connect(t, new(fakeDevice))
	p.negotiate()
	full := func() int {
		_, w := pipe(t)
		for b := make([]byte, 4096); ; {
			if _, err := unix.Write(w, b); err != nil {
				return w
			}
		}
	}
	_, w := pipe(t)
	for words, c := range map[string]struct {
		payload []byte
		fd      int
	}{
		"direction 2, phase 0":                        {[]byte{2, 0, 0, 0, 0, 0, 0, 0}, w},
		"direction 0, phase 1":                        {[]byte{0, 0, 0, 0, 1, 0, 0, 0}, w},
		"it has to be a pipe or a UNIX stream socket": {make([]byte, 8), memFD(t, 1)},
		"its descriptor is an eventfd":                {make([]byte, 8), eventFD(t)},
		"writing the device's state: resource tempor": {make([]byte, 8), full()},
	} {
		if v := p.number(SetDeviceStateFD, c.payload, c.fd); v != 0x101 || !p.logged(LevelWarn, words) {
			t.Errorf("%s: answer %#x, log %q", words, v, p.logs)
		}
	}
	p.setUp(0)
	p.kick(0)
	if v := p.number(SetDeviceStateFD, make([]byte, 8), w); v != 0x101 || !p.logged(LevelWarn, "ring 0 runs") {
		t.Errorf("while a ring runs: answer %#x", v)
	}
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// blockingEnds makes two ends of a pipe or socket whose O_NONBLOCK is not set.
func blockingEnds(t *testing.T, kind string) (r, w int) {
	t.Helper()
	var fds [2]int
	var err error
	if kind == "pipe" {
		err = unix.Pipe2(fds[:], unix.O_CLOEXEC)
	} else {
		fds, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Close(fds[0])
		_ = unix.Close(fds[1])
	})
	return fds[0], fds[1]
}
