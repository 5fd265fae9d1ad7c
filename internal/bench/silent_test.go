package bench

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/virtio/blkclient"
)

// silentBackend accepts front-ends, answers so many of their messages, and then no more.
// Each message that is not answered is sent to the channel.
func silentBackend(t *testing.T, dk disk.Disk, answers func(vhostuser.Request) bool) (path string, unanswered <-chan vhostuser.Request) {
	t.Helper()
	real := serve(t, dk, nil)
	path = filepath.Join(t.TempDir(), "silent")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	check(t, err)
	silent := make(chan vhostuser.Request, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			uc, err := l.AcceptUnix()
			if err != nil {
				return
			}
			relay(uc, real, answers, silent)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return path, silent
}

// relay passes on what a front-end sends to the back-end at real, and its answers, while
// answers says so. It returns when the front-end has left.
func relay(uc *net.UnixConn, real string, answers func(vhostuser.Request) bool, silent chan<- vhostuser.Request) {
	front := vhostuser.NewConn(uc)
	defer front.Close()
	ruc, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: real, Net: "unix"})
	if err != nil {
		return
	}
	back := vhostuser.NewConn(ruc)
	defer back.Close()
	var m, reply vhostuser.Message
	defer m.Close()
	for quiet := false; ; {
		if front.ReadRequest(&m) != nil {
			return
		}
		if quiet = quiet || !answers(m.Request); quiet {
			silent <- m.Request
			continue
		}
		var fds []int
		for _, f := range m.Files {
			fds = append(fds, f.Int())
		}
		if back.Write(m.Request, m.Flags, m.Payload, fds...) != nil {
			return
		}
		switch m.Request {
		case vhostuser.GetFeatures, vhostuser.GetProtocolFeatures, vhostuser.GetQueueNum, vhostuser.GetConfig, vhostuser.GetVringBase, vhostuser.GetStatus:
		default:
			if m.Flags&vhostuser.FlagNeedReply == 0 {
				continue
			}
		}
		if back.ReadReply(&reply) != nil || front.Write(reply.Request, reply.Flags, reply.Payload) != nil {
			return
		}
	}
}

// A back-end that stops to answer, at whichever message, does not hold the run: not its
// time limit, nor the end of the context. The error names the message.
func TestSilentBackend(t *testing.T) {
	impatient(t)
	for _, r := range []vhostuser.Request{vhostuser.GetFeatures, vhostuser.SetOwner, vhostuser.GetConfig, vhostuser.SetVringKick, vhostuser.GetVringBase} {
		dk, err := backend.NewNull(1 << 20)
		check(t, err)
		path, unanswered := silentBackend(t, dk, func(got vhostuser.Request) bool { return got != r })

		c := config(path, RandRead)
		c.Timeout = time.Millisecond
		if r != vhostuser.GetFeatures {
			c.Timeout = 5 * time.Second // the other answers have to come in time
		}
		c.Runtime = time.Millisecond
		want := "waiting for the answer to " + r.String() + ": the back-end has not answered within " + c.Timeout.String()
		if r == vhostuser.GetFeatures {
			refused(t, c, want)
			<-unanswered
		}

		c.Timeout = time.Hour
		ctx, end := context.WithCancel(context.Background())
		go func() {
			<-unanswered
			end()
		}()
		res, err := Run(ctx, c, nil)
		if want := "waiting for the answer to " + r.String() + ": interrupted"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if measured := r == vhostuser.GetVringBase; (res.Requests != 0) != measured {
			t.Errorf("%v: %+v", r, res)
		}
	}
}

// hanging is a disk on which one request is never answered.
func hanging(t *testing.T) disk.Disk {
	t.Helper()
	dk, err := backend.NewNull(1 << 20)
	check(t, err)
	fault, err := disk.ParseFault("latency=1h,times=1")
	check(t, err)
	_, err = dk.Faults().Add(fault)
	check(t, err)
	return dk
}

// The end of the context does not wait for a request that is not answered, asleep or
// awake. What the others have shown is told, with an error that names the request.
func TestEndWithoutAnAnswer(t *testing.T) {
	impatient(t)
	for _, poll := range []bool{false, true} {
		c := config(serve(t, hanging(t), nil), Read)
		c.Runtime, c.Timeout, c.Poll = time.Hour, time.Hour, poll
		ctx, end := context.WithCancel(context.Background())
		r, err := Run(ctx, c, func(p Progress) {
			if p.Requests > 0 {
				end()
			}
		})
		if !errors.Is(err, blkclient.ErrInterrupted) || !strings.Contains(err.Error(), "waiting for the read at sector 0, sent ") {
			t.Errorf("polling %v: %v", poll, err)
		}
		if r.Requests == 0 || r.IOPS <= 0 || r.Error != err.Error() {
			t.Errorf("polling %v: %+v", poll, r)
		}
	}
}

// A back-end that goes away in the middle ends the run with what was measured until then.
func TestBackendGoes(t *testing.T) {
	dk, err := backend.NewNull(1 << 20)
	check(t, err)
	path := serve(t, dk, nil)
	between := filepath.Join(t.TempDir(), "between")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: between, Net: "unix"})
	check(t, err)
	uc := make(chan *net.UnixConn, 1)
	over := make(chan struct{})
	go func() {
		defer close(over)
		defer l.Close()
		front, err := l.AcceptUnix()
		if err != nil {
			return
		}
		uc <- front
		relay(front, path, func(vhostuser.Request) bool { return true }, nil)
	}()
	c := config(between, Read)
	c.Runtime, c.Timeout = time.Hour, time.Hour
	var gone atomic.Bool
	r, err := Run(context.Background(), c, func(p Progress) {
		if p.Requests > 0 && !gone.Swap(true) {
			conn := <-uc
			raw, err := conn.SyscallConn()
			check(t, err)
			check(t, raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) }))
		}
	})
	<-over
	// With all answered at once it may be told by the end of the session, which nobody waits for.
	if !errors.Is(err, blkclient.ErrGone) || r.Requests == 0 || r.Error == "" {
		t.Errorf("%v: %+v", err, r)
	}
}

// A file that does not answer, here a pipe that nothing is written to, does not hold the
// run either; nor does it give back memory that is still to be written to.
func TestFileWithoutAnAnswer(t *testing.T) {
	impatient(t)
	for _, tt := range []struct {
		interrupt bool
		want      string
	}{{true, "interrupted"}, {false, "pipe has not answered within 1ms"}} {
		var p [2]int
		check(t, unix.Pipe2(p[:], unix.O_CLOEXEC))
		c := config("", Read)
		c.File, c.Timeout = "pipe", time.Millisecond
		if tt.interrupt {
			c.Timeout = time.Hour
		}
		l := &fileLoop{c: &c, fd: int32(p[0]), spread: &spread{bytes: c.BlockBytes, blockSectors: 8, extents: []extent{{}}, blocks: 100}}
		ctx, end := context.WithCancel(context.Background())
		if tt.interrupt { // once the pipe has answered one
			_, err := unix.Write(p[1], make([]byte, c.BlockBytes))
			check(t, err)
		}
		err := runAll(ctx, []looper{l}, time.Now(), time.Hour, nil, func(p Progress) {
			if p.Requests > 0 {
				end()
			}
		})
		end()
		if want := "waiting for 8 requests in flight (read of pipe), none answered for "; err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want %q and %q", err, want, tt.want)
		}
		check(t, unix.Close(p[1]))
		check(t, unix.Close(p[0]))
		check(t, unix.Munmap(l.buffers))
	}
}

// A server's process that ends during the run costs its own processor time, and no more.
func TestServerEnds(t *testing.T) {
	server := exec.Command("sleep", "3600")
	check(t, server.Start())
	c := config(serveNull(t, 1<<20), Read)
	c.Runtime, c.ServerPID = time.Hour, server.Process.Pid
	ctx, end := context.WithCancel(context.Background())
	r, err := Run(ctx, c, func(p Progress) {
		if ctx.Err() == nil {
			check(t, server.Process.Kill())
			_ = server.Wait()
			end()
		}
	})
	check(t, err)
	if r.Requests == 0 || !r.ServerEnded || r.ServerPID != c.ServerPID || r.ServerCPUSeconds != 0 || r.ClientCPUSeconds <= 0 {
		t.Errorf("%+v", r)
	}
	var words strings.Builder
	check(t, r.Write(&words))
	if !strings.Contains(words.String(), "has ended during the run: its processor time is not known") {
		t.Error(words.String())
	}
}
