package vhostuser

import (
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/internal/silentfs"
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// withFDs are messages that carry descriptors, with the payload that goes with them.
var withFDs = map[Request][]byte{
	SetMemTable:      AppendMemTable(nil, []guestmem.RegionDesc{desc(0, 1<<20, 0)}),
	AddMemReg:        AppendMemReg(nil, desc(0, 1<<20, 0)),
	RemMemReg:        AppendMemReg(nil, desc(0, 1<<20, 0)),
	SetLogBase:       LogArea{Size: 4096}.Append(nil),
	SetLogFD:         nil,
	SetVringKick:     VringFile{Index: 0}.Append(nil),
	SetVringCall:     VringFile{Index: 0}.Append(nil),
	SetVringErr:      VringFile{Index: 0}.Append(nil),
	SetBackendReqFD:  nil,
	SetInflightFD:    InflightArea{uint64(inflight.Bytes(1, 64)), 0, 1, 64}.Append(nil),
	SetDeviceStateFD: make([]byte, 8),
	GetFeatures:      nil, // where it has no business
}

// A descriptor whose close waits stops nobody, as whatever and however it comes: the
// session ends with its front-end.
func TestSessionLingeringDescriptors(t *testing.T) {
	sends := map[string]func(p *peer, fd int){
		"nonsense": func(p *peer, fd int) { _ = p.conn.WriteRaw([]byte("twelve bytes"), fd, fd) },
		"half":     func(p *peer, fd int) { _ = p.conn.WriteRaw(AppendU64(nil, 1), fd) },
		"surplus":  func(p *peer, fd int) { p.send(SetOwner, nil, slices.Repeat([]int{fd}, 100)...) },
		"unread":   func(p *peer, fd int) { p.send(Request(9999), nil); _ = p.conn.WriteRaw(make([]byte, 100), fd) },
		"with ack": func(p *peer, fd int) { _ = p.conn.Write(SetVringCall, Version|FlagNeedReply, make([]byte, 8), fd) },
		"out of band": func(p *peer, fd int) {
			_ = p.conn.control(func(conn uintptr) error {
				return unix.Sendmsg(int(conn), []byte{1}, unix.UnixRights(fd), nil, unix.MSG_OOB)
			})
		},
		"two of two": func(p *peer, fd int) { p.send(SetVringCall, make([]byte, 8), fd, fd) },
	}
	for r, payload := range withFDs {
		sends[r.String()] = func(p *peer, fd int) { _ = p.conn.Write(r, Version|FlagNeedReply, payload, fd) }
	}
	for name, send := range sends {
		t.Run(name, func(t *testing.T) {
			fd, release := silentfs.Lingering(t)
			what := silentfs.Link(fd)
			p := connect(t, new(fakeDevice))
			p.negotiate()
			send(p, fd)
			closed := make(chan error, 1) // the session's is the last one, or this one
			go func() { closed <- unix.Close(fd) }()
			_ = p.conn.uc.CloseWrite()
			drain(p.conn)
			<-p.done
			_ = p.conn.Close()
			release()
			<-closed
			nothingIsClosing()
			silentfs.CloseAll(t, what)
		})
	}
}

// A file of a file system that does not answer is refused without a question to it, as
// whatever it comes.
func TestSessionSilentFile(t *testing.T) {
	f := silentfs.Mount(t)
	fd := f.Open(t)
	f.Silence()
	nothingIsClosing()
	left, _ := foreign.Left()
	sent := 0
	for r, payload := range withFDs {
		if r == GetFeatures {
			continue
		}
		p := connect(t, new(fakeDevice))
		p.negotiate()
		_ = p.conn.Write(r, Version|FlagNeedReply, payload, fd)
		_ = p.conn.uc.CloseWrite()
		drain(p.conn)
		err := <-p.done
		if words := "that is not known to be local"; !p.logged(LevelWarn, words) && !contains(err, words) {
			t.Errorf("%v: %v, log %q", r, err, p.logs)
		}
		_ = p.conn.Close()
		sent++
	}
	nothingIsClosing()
	if all, _ := foreign.Left(); all != left+sent {
		t.Errorf("%d are left open, not %d", all-left, sent)
	}
	if n := f.Waiting(); n != 0 {
		t.Errorf("its server was asked %d times", n)
	}
	f.Unmount()
	if n := silentfs.CloseAll(t, silentfs.Link(fd)); n != sent+1 {
		t.Errorf("%d of %d descriptors are open", n, sent+1)
	}
}

// A front-end that has sent too much of what cannot be closed is done with.
func TestSessionExhausted(t *testing.T) {
	nothingIsClosing()
	was := foreign.Limit
	defer func() { foreign.Limit = was }()
	left, _ := foreign.Left()
	foreign.Limit = left + 1
	fd, release := silentfs.Lingering(t)
	what := silentfs.Link(fd)
	p := connect(t, new(fakeDevice))
	p.negotiate()
	p.mustNot("that lingers: it has to be an eventfd", SetLogFD, nil, fd)
	for all, _ := foreign.Left(); all <= left; all, _ = foreign.Left() {
		time.Sleep(time.Millisecond)
	}
	_ = p.conn.Write(GetFeatures, Version, nil)
	drain(p.conn)
	if err := <-p.done; err != errExhausted {
		t.Errorf("it ended with: %v", err)
	}
	_ = p.conn.Close()
	release()
	nothingIsClosing()
	silentfs.CloseAll(t, what)
}

// What QEMU uses for memory is taken: memfd, and files on tmpfs and on a disk.
func TestSessionMemoryFiles(t *testing.T) {
	for _, dir := range []string{"/dev/shm", t.TempDir()} {
		fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Ftruncate(fd, 1<<20); err != nil {
			t.Fatal(err)
		}
		p := connect(t, new(fakeDevice))
		p.negotiate()
		p.must(SetMemTable, withFDs[SetMemTable], fd)
		if err := p.leave(); err != nil {
			t.Fatal(err)
		}
	}
}

// An eventfd that is full, and blocks, stops nobody who signals it: not even if it becomes
// so at the last moment, and does not block any more afterwards.
func TestSignal(t *testing.T) {
	for _, flags := range []int{0, unix.EFD_SEMAPHORE} {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|flags)
		if err != nil {
			t.Fatal(err)
		}
		fill := func() { _, _ = unix.Write(fd, AppendU64(nil, 1<<64-2)) }
		fill()
		foreign.Signal(fd)
		if !foreign.IsFull(fd) {
			t.Error("it was emptied, though nobody waited")
		}
		p := connect(t, new(fakeDevice))
		p.negotiate()
		p.setUp(0)
		p.kick(0)
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() { // a front-end that fills it again and again
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
					_ = unix.SetNonblock(fd, true)
					for _, err := unix.Write(fd, AppendU64(nil, 1)); err == nil; _, err = unix.Write(fd, AppendU64(nil, 1)) {
						fill()
					}
					_ = unix.SetNonblock(fd, false)
				}
			}
		}()
		for range 50 {
			p.must(SetVringCall, VringFile{Index: 0}.Append(nil), fd)
		}
		close(stop)
		_ = unix.SetNonblock(fd, true)
		<-stopped
		if err := p.leave(); err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(fd)
	}
}

func contains(err error, words string) bool {
	return err != nil && strings.Contains(err.Error(), words)
}

// nothingIsClosing waits until that is so: a test must not close what is being closed.
func nothingIsClosing() {
	for _, closing := foreign.Left(); closing > 0; _, closing = foreign.Left() {
		time.Sleep(time.Millisecond)
	}
}
