package vhostuser

import (
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/silentfs"
)

// heldPipe is the session's end of a pipe whose mutex another process holds. release ends
// that; where the test does not come to it in time it happens all the same, and late says so.
func heldPipe(t *testing.T, direction uint32) (fd int, release func(), late *atomic.Bool) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	// After release: it may wait before.
	t.Cleanup(func() { _ = unix.Close(p[direction]) })
	free := silentfs.HoldPipe(t, p[1])
	end := make(chan struct{})
	late = new(atomic.Bool)
	watch := time.AfterFunc(time.Minute, func() {
		late.Store(true)
		free()
		close(end)
	})
	release = func() {
		if watch.Stop() {
			free()
		} else {
			<-end
		}
	}
	return p[1-direction], release, late
}

// A front-end that holds the lock of the pipe for the state makes nobody wait without an
// end: the transfer fails, the disk stays where it is, the session goes on and ends, and
// the next one is served.
func TestSessionStateHeldPipe(t *testing.T) {
	for _, direction := range []uint32{StateSave, StateLoad} {
		dev := new(fakeDevice)
		p := connectWith(t, dev, func(s *Session) { s.statePatience = 50 * time.Millisecond })
		p.negotiate()
		fd, release, late := heldPipe(t, direction)
		want := uint64(stateNoFD)
		if direction == StateSave {
			want |= stateFailed
		}
		if v := p.number(SetDeviceStateFD, StateTransfer{direction, 0}.Append(nil), fd); v != want {
			t.Errorf("direction %d: answer %#x, want %#x", direction, v, want)
		}
		_ = unix.Close(fd) // not the last one: whoever carries the state has it
		if v := p.number(CheckDeviceState, nil); v != stateFailed || !p.logged(LevelWarn, "not done within 50ms") {
			t.Errorf("direction %d: CHECK_DEVICE_STATE says %#x: %q", direction, v, p.logs)
		}
		p.tells("features 0x100020000")
		if err := p.leave(); err != nil {
			t.Error(err)
		}
		next := connect(t, dev)
		next.negotiate()
		if err := next.leave(); err != nil {
			t.Error(err)
		}
		if late.Load() {
			t.Errorf("direction %d: they waited for the pipe", direction)
		}
		release()
	}
}
