package main

import (
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/silentfs"
	"github.com/zvhost/zvhost/vhostuser"
)

// A daemon that was sent a pipe whose mutex somebody holds, so that no process which has
// it could read from it or close it, ends all the same, and lets go of its image: when it
// is killed, and when it is asked to end; with the pipe of a state, with one that it has
// refused, and with one that it has not received yet.
func TestHeldPipeAtTheEnd(t *testing.T) {
	for _, how := range []string{"state", "refused", "not received"} {
		for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
			t.Run(how+" "+unix.SignalName(sig), func(t *testing.T) {
				imageHere(t)
				p := start(t, "", nil, nil, "--socket-path=s", "--blk-file=disk.zvh")
				p.until("serving disk.zvh on s")
				c := dial(t, "s")
				var ends [2]int
				if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
					t.Fatal(err)
				}
				release := silentfs.HoldPipe(t, ends[1])
				_ = unix.Close(ends[1]) // the holder has it
				var late atomic.Bool
				end := make(chan struct{})
				watch := time.AfterFunc(time.Minute, func() {
					late.Store(true)
					release()
					close(end)
				})
				switch how {
				case "state":
					f, err := c.ProtocolFeatures()
					if err != nil {
						t.Fatal(err)
					}
					if err := c.SetProtocolFeatures(f); err != nil {
						t.Fatal(err)
					}
					load := vhostuser.StateTransfer{Direction: vhostuser.StateLoad}.Append(nil)
					if _, err := c.Get(vhostuser.SetDeviceStateFD, load, ends[0]); err != nil {
						t.Error(err)
					}
				case "refused":
					p.signal(unix.SIGSTOP) // so that the last close is the daemon's, and not ours
					if err := c.Send(vhostuser.SetLogFD, vhostuser.Version, nil, ends[0]); err != nil {
						t.Error(err)
					}
					_ = unix.Close(ends[0])
					ends[0] = -1
					p.signal(unix.SIGCONT)
					p.until("its descriptor is a pipe: it has to be an eventfd")
				case "not received":
					if err := c.SendRaw(make([]byte, 1), ends[0]); err != nil {
						t.Error(err)
					}
					for range 2 { // one waits, and one is in the backlog, perhaps
						another, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
						if err != nil {
							t.Fatal(err)
						}
						defer func() { _ = unix.Close(another) }()
						if err := unix.Connect(another, &unix.SockaddrUnix{Name: "s"}); err != nil {
							t.Error(err)
						}
						if err := unix.Sendmsg(another, make([]byte, 1), unix.UnixRights(ends[0]), nil, 0); err != nil {
							t.Error(err)
						}
					}
				}
				if ends[0] >= 0 {
					_ = unix.Close(ends[0]) // not the last one: the daemon has it
				}
				p.signal(sig)
				want := exitOK
				if sig == unix.SIGKILL {
					want = -1
				}
				if status := p.wait(); status != want {
					t.Errorf("status %d:\n%s", status, p.logged())
				}
				must(t, "check", "disk.zvh")
				if !watch.Stop() {
					<-end
				}
				if late.Load() {
					t.Errorf("it waited for the pipe:\n%s", p.logged())
				}
				release()
			})
		}
	}
}
