package engine

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Wait says of a descriptor that it can be read also when its other end is closed or
// it is none: whoever reads it finds out, and passes it no more. What happened while
// it was not passed is not lost.
func TestWait(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		fds := []unix.PollFd{{Fd: int32(pipe[0]), Events: unix.POLLIN}, r.woken[0]}
		wait := func(what string, want int) {
			t.Helper()
			fds[want].Revents = 0
			for fds[want].Revents == 0 { // it may return for no reason
				fds[0].Revents, fds[1].Revents = -1, -1 // of another time
				if r.Wait(fds); fds[1-want].Revents != 0 {
					t.Errorf("%s: descriptor %d: %#x", what, 1-want, fds[1-want].Revents)
				}
			}
			if want == 1 {
				if _, err := unix.Read(r.fd, r.drain[:]); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
		}
		r.wake()
		wait("a wake-up, and a pipe with nothing in it", 1)
		if _, err := unix.Write(pipe[1], one[:]); err != nil {
			t.Fatal(err)
		}
		fds[0].Fd = -1
		r.wake()
		wait("a wake-up, and the pipe is not asked for", 1)
		fds[0].Fd = int32(pipe[0])
		wait("what is in the pipe", 0)
		if _, err := unix.Read(pipe[0], r.drain[:]); err != nil {
			t.Fatal(err)
		}
		r.wake()
		wait("a wake-up, and the pipe is empty", 1)
		if err := unix.Close(pipe[1]); err != nil {
			t.Fatal(err)
		}
		wait("hung up", 0)
		fds[0].Fd = -1
		r.wake()
		wait("a wake-up after that", 1)
		fds[0].Fd = 1 << 20
		wait("no descriptor", 0)
		if err := unix.Close(pipe[0]); err != nil {
			t.Fatal(err)
		}
	})
}
