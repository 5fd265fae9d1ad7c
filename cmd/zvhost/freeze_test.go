package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/control"
	"github.com/zvhost/zvhost/internal/loopdev"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// FIFREEZE and FITHAW, _IOWR('X', 119, int) and _IOWR('X', 120, int)
// (include/uapi/linux/fs.h): what fsfreeze(8) does.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// freezable mounts an ext4 file system of its own, goes there, and returns what freezes
// it and what thaws it. It is thawed and taken down in any case.
func freezable(t *testing.T) (freeze, thaw func()) {
	t.Helper()
	dev := loopdev.Attach(t, loopdev.File(t, 64<<20), loopdev.Options{})
	dev.FileSystem()
	dir := dev.Mount(0)
	frozen := false
	ioctl := func(name string, request uint) {
		t.Helper()
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := unix.IoctlSetInt(int(f.Fd()), request, 0); err != nil {
			t.Fatalf("%s %s: %v", name, dir, err)
		}
	}
	freeze = func() { t.Helper(); ioctl("freeze", fiFreeze); frozen = true }
	thaw = func() {
		t.Helper()
		if frozen {
			ioctl("thaw", fiThaw)
			frozen = false
		}
	}
	t.Chdir(dir)
	return freeze, thaw
}

// sendTo sends a request without waiting for it.
func sendTo(t *testing.T, q *frontend.Queue, typ uint32, sector uint64, n int) *frontend.Request {
	t.Helper()
	r := q.Get()
	r.Type, r.Sector = typ, sector
	r.SetLen(n)
	if err := q.Submit(r); err != nil {
		t.Fatal(err)
	}
	if err := q.Kick(); err != nil {
		t.Fatal(err)
	}
	return r
}

// A file system that is frozen under an image holds up what has to change the image, and
// nothing else: the daemon answers its control socket, reads in another queue go on, and
// the log says what waits. With GOGC=1 the garbage collector runs all the time, and it
// waits for whoever runs Go code. When the file system is thawed all is answered.
func TestFrozenFileSystem(t *testing.T) {
	freeze, thaw := freezable(t)
	must(t, "create", "disk.zvh", "--size", "4M", "--zone-size", "64K")
	p := start(t, "", nil, []string{"GOGC=1"}, "serve", "--socket-path=s", "--blk-file=disk.zvh", "--control-path=c", "--queues=2")
	t.Cleanup(thaw) // before p is waited for
	p.until("serving disk.zvh on s")
	for _, what := range []struct {
		name string
		typ  uint32
		n    int
	}{
		{"open", driver.TypeZoneOpen, 0}, // of the image only the table changes
		{"append", driver.TypeZoneAppend, 4096},
	} {
		c, err := frontend.Dial("s")
		if err != nil {
			t.Fatal(err)
		}
		d, err := frontend.Open(c, frontend.Options{Queues: 2})
		if err != nil {
			t.Fatal(err)
		}
		before := strings.Count(p.logged(), "has not answered for")
		freeze()
		r := sendTo(t, d.Queue(0), what.typ, 128, what.n)
		answers := make(chan error)
		go func() {
			for range 300 {
				if _, err := control.Call("c", control.Request{Command: control.FaultList}); err != nil {
					answers <- err
					return
				}
			}
			answers <- nil
		}()
		select {
		case err := <-answers:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Errorf("%s: the control socket does not answer", what.name)
			thaw()
			<-answers
		}
		if read := sendTo(t, d.Queue(1), driver.TypeIn, 0, 4096); true {
			wantDone(t, d.Queue(1), read)
		}
		p.times(before+1, "has not answered for")
		if want := fmt.Sprintf("queue 0: a request (%s) waits for the disk", what.name); !strings.Contains(p.logged(), want) {
			t.Errorf("the log does not say %q:\n%s", want, p.logged())
		}
		thaw()
		wantDone(t, d.Queue(0), r)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	p.signal(unix.SIGTERM)
	if status := p.wait(); status != exitOK {
		t.Errorf("status %d:\n%s", status, p.logged())
	}
	must(t, "check", "disk.zvh")
}

func wantDone(t *testing.T, q *frontend.Queue, r *frontend.Request) {
	t.Helper()
	done := make([]*frontend.Request, 1)
	if n, err := q.Wait(done); n != 1 || err != nil || done[0] != r || r.Status != driver.StatusOK {
		t.Errorf("%d are done, %v, status %d", n, err, r.Status)
	}
}

// SIGTERM waits for what a frozen file system holds up, and says so; the next one ends
// the daemon. The kernel keeps the thread that is stuck, and with it the process, until
// the file system is thawed, but it is a dead one.
func TestFrozenFileSystemAndSignals(t *testing.T) {
	freeze, thaw := freezable(t)
	must(t, "create", "disk.zvh", "--size", "4M", "--zone-size", "64K")
	p := start(t, "", nil, []string{"GOGC=1"}, "serve", "--socket-path=s", "--blk-file=disk.zvh")
	t.Cleanup(thaw)
	p.until("serving disk.zvh on s")
	c, err := frontend.Dial("s")
	if err != nil {
		t.Fatal(err)
	}
	d, err := frontend.Open(c, frontend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	freeze()
	sendTo(t, d.Queue(0), driver.TypeZoneOpen, 128, 0)
	p.until("has not answered for") // a queue that is to stop takes no request any more
	p.signal(unix.SIGTERM)
	p.until("queue 0: the end of the daemon waits for")
	for !strings.Contains(p.logged(), "again: ending at once") {
		p.signal(unix.SIGTERM) // two that come together may count as one
		time.Sleep(100 * time.Millisecond)
	}
	stat := fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid)
	for {
		text, err := os.ReadFile(stat)
		if err != nil {
			t.Fatal(err)
		}
		if _, state, _ := strings.Cut(string(text), ") "); strings.HasPrefix(state, "Z") {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	thaw()
	if status := p.wait(); status != exitFailure {
		t.Errorf("status %d:\n%s", status, p.logged())
	}
	if err := d.Abandon(); err != nil {
		t.Error(err)
	}
	must(t, "zone", "set-state", "disk.zvh", "0", "writable") // it can be opened
	must(t, "check", "disk.zvh")
}
