package vhostuser

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"
)

// pair makes a pair of connected sockets, closed at the end of the test.
func pair(t *testing.T) [2]int {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Close(fds[0])
		_ = unix.Close(fds[1])
	})
	return fds
}

// change has the device's configuration space change.
func (d *fakeDevice) change() (told bool) {
	d.mu.Lock()
	changed := d.changed
	d.mu.Unlock()
	return changed()
}

// configChange is the message, byte for byte: CONFIG_CHANGE_MSG, version 1, no
// answer asked for, no payload.
var configChange = []byte{2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}

// "Back-end communication": the front-end is told of a changed configuration
// space over the socket that it gave last.
func TestSessionConfigChange(t *testing.T) {
	dev := new(fakeDevice)
	p := connect(t, dev)
	p.negotiate()
	if dev.change() {
		t.Error("told without a socket")
	}
	read := func(fd int, want []byte) {
		t.Helper()
		b := make([]byte, 64)
		n, err := unix.Read(fd, b)
		if n = max(n, 0); !bytes.Equal(b[:n], want) {
			t.Fatalf("read %x, %v, not %x", b[:n], err, want)
		}
	}
	first, second := pair(t), pair(t)
	p.must(SetBackendReqFD, nil, first[1])
	for range 2 {
		if !dev.change() {
			t.Error("not told")
		}
		read(first[0], configChange)
	}
	p.must(SetBackendReqFD, nil, second[1])
	if !dev.change() {
		t.Error("not told")
	}
	read(first[0], nil)
	read(second[0], configChange)

	// One that reads nothing is told as far as its socket has room, and keeps nobody
	// waiting.
	for range 100000 {
		if !dev.change() {
			t.Fatal("a full socket is no reason to give up")
		}
	}
	n, b := 0, make([]byte, 1<<16)
	for {
		k, err := unix.Read(second[0], b)
		if err != nil {
			break
		}
		n += k
	}
	if n == 0 || n%len(configChange) != 0 {
		t.Errorf("%d bytes are no whole messages", n)
	}
	// One that has closed it is not told, and it does no harm.
	_ = unix.Shutdown(second[0], unix.SHUT_RDWR)
	for range 2 {
		if dev.change() {
			t.Error("told over a socket that is closed")
		}
	}
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
	dev.mu.Lock()
	defer dev.mu.Unlock()
	if dev.changed != nil {
		t.Error("the device holds on to a session that has ended")
	}
}

// What is no socket is refused; without CONFIG there is nothing to tell.
func TestSessionBackChannelRefuses(t *testing.T) {
	dev := new(fakeDevice)
	p := connect(t, dev)
	p.negotiate()
	p.mustNot("a memory file", SetBackendReqFD, nil, memFD(t, 1))
	p.mustNot("an eventfd: it has to be a UNIX stream socket", SetBackendReqFD, nil, eventFD(t))
	p.mustNot("0 descriptors came along instead of 1", SetBackendReqFD, nil)
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
	p = connect(t, dev)
	p.must(SetProtocolFeatures, AppendU64(nil, ProtocolReplyAck))
	p.mustNot("BACKEND_REQ, which was not negotiated", SetBackendReqFD, nil, pair(t)[0])
	p.must(SetProtocolFeatures, AppendU64(nil, ProtocolReplyAck|ProtocolBackendReq))
	p.must(SetBackendReqFD, nil, pair(t)[0])
	if dev.change() {
		t.Error("told, though it cannot read the configuration space")
	}
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}
