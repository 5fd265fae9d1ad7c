package device

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/control"
	"github.com/zvhost/zvhost/internal/testlog"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// movable makes r a device that lets go of its disk, and that does not wait for one
// that somebody else has.
func (r *rig) movable() *rig {
	r.dev.custody.patience = 0
	r.dev.custody.open, r.dev.custody.look = r.reopen, r.look
	return r
}

func (r *rig) reopen() (disk.Disk, error) { return backend.Open(r.path, disk.Options{}) }
func (r *rig) look() (disk.Disk, error)   { return backend.Look(r.path, disk.Options{}) }

// incomingRig is a second rig over the disk of r, which waits for that one.
func (r *rig) incomingRig() *rig {
	r.t.Helper()
	disk, err := r.look()
	if err != nil {
		r.t.Fatal(err)
	}
	log, book := testlog.New()
	dev, err := New(disk, Options{Queues: r.dev.Queues(), Serial: rigSerial, Log: log, Detached: true, Open: r.reopen, Look: r.look})
	if err != nil {
		r.t.Fatal(err)
	}
	next := &rig{t: r.t, path: r.path, disk: disk, dev: dev, book: book}
	r.t.Cleanup(next.close)
	return next.movable()
}

// stopAll stops the queues of g, and says where they are to go on.
func (g *guest) stopAll() (bases []uint32) {
	g.r.t.Helper()
	for i := range g.r.dev.Queues() {
		base, err := g.Queue(i).Stop()
		if err != nil {
			g.r.t.Fatalf("%v\n%s", err, g.r.book)
		}
		bases = append(bases, base)
	}
	return bases
}

// stays starts the queues of g again where they were.
func (g *guest) stays(bases []uint32) error {
	for i, base := range bases {
		if err := g.Queue(i).Start(base); err != nil {
			return err
		}
	}
	return nil
}

// moveTo has g go on at r, and returns the session that it has left behind.
func (g *guest) moveTo(r *rig, bases []uint32) (left *frontend.Client, ended chan error) {
	r.t.Helper()
	c, next := r.dial()
	left, err := g.Move(c, bases)
	if err != nil {
		r.t.Fatalf("%v\n%s", err, r.book)
	}
	ended, g.ended, g.r = g.ended, next, r
	return left, ended
}

// startLog has the writes of g logged, as they are when a machine is about to move.
func (g *guest) startLog() *frontend.DirtyLog {
	g.r.t.Helper()
	l, err := g.StartLog()
	if err != nil {
		g.r.t.Fatal(err)
	}
	return l
}

// quiet has loaders run without being disturbed.
func quiet() error { return nil }

// A guest with a zoned image goes to another daemon and comes back, both alive all
// the while, with appends that are in flight when it is stopped: each is carried out
// once, by the one or the other, and whoever has the image knows its zones. The one
// that has not is not started by mistake.
func TestZonedDiskMoves(t *testing.T) {
	for name, o := range rings {
		if o.Without&(1<<30) != 0 {
			continue // there is no log without protocol features
		}
		t.Run(name, func(t *testing.T) {
			from := zonedRig(t, loadZones, loadQueues).movable()
			to := from.incomingRig()
			o.Queues, o.Depth = loadQueues, 16
			g := from.connect(o)
			var loaders []*loader
			for i := range loadQueues {
				loaders = append(loaders, &loader{g: g, queue: i, landed: map[uint64]uint64{}})
			}
			appends := 0
			run := func(n int) {
				t.Helper()
				for _, l := range loaders {
					if err := l.run(n, quiet); err != nil {
						t.Fatalf("%v\n%s%s", err, from.book, to.book)
					}
				}
				appends += n * loadQueues
			}
			run(40)
			for round, way := range [][2]*rig{{from, to}, {to, from}, {from, to}} {
				here, there := way[0], way[1]
				l := g.startLog()
				for _, l := range loaders {
					if err := l.send(8); err != nil {
						t.Fatal(err)
					}
				}
				bases := g.stopAll() // some of those have been taken, and are answered
				left, ended := g.moveTo(there, bases)
				for _, l := range loaders {
					for q := g.Queue(l.queue); q.InFlight() > 0; {
						n, err := l.take()
						if err != nil {
							t.Fatalf("round %d: %v\n%s%s", round, err, from.book, to.book)
						}
						appends += n
					}
				}
				run(20)

				// The one that it has left is told to start again.
				wrong := &guest{Disk: g.Disk, r: here}
				at := g.Client
				g.Client = left
				if err := wrong.stays(bases); !errors.As(err, new(frontend.RefusedError)) {
					t.Errorf("started in two places: %v", err)
				}
				g.Client = at
				here.logged("in use by process")
				here.logged("the requests of the guest stay in its queues")
				run(20)
				if err := errors.Join(l.Free(), left.Close(), <-ended); err != nil {
					t.Fatalf("%v\n%s", err, here.book)
				}
			}
			verify(g, loaders, appends)
			g.leave()
		})
	}
}

// A front-end that goes to and fro does not fill the log.
func TestMovingFillsNoLog(t *testing.T) {
	r := plainRig(t, 1).movable()
	g := r.connect(frontend.Options{})
	l := g.startLog()
	for range 3 * maxMoves {
		if err := g.stays(g.stopAll()); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(r.book.String(), "<6>the "); n != maxMoves {
		t.Errorf("%d lines:\n%s", n, r.book)
	}
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	g.leave()
}

// Queues that start while the disk is still released wait for it.
func TestQueuesWaitForTheDisk(t *testing.T) {
	from := plainRig(t, 1).movable()
	to := from.incomingRig()
	to.dev.custody.patience = time.Hour
	g := from.connect(frontend.Options{})
	g.want("write", driver.StatusOK, g.Queue(0).Write(pattern(4096, 1), 8))
	l := g.startLog()
	next, ended := to.dial()
	moved, home := make(chan error), g.Client
	go func() {
		_, err := g.Move(next, []uint32{1})
		moved <- err
	}()
	to.book.Wait(1, "waiting up to 1h0m0s for it")
	if base, err := home.VringBase(0); err != nil || base != 1 {
		t.Fatal(base, err)
	}
	if err := <-moved; err != nil {
		t.Fatalf("%v\n%s", err, to.book)
	}
	got := make([]byte, 4096)
	g.want("read", driver.StatusOK, g.Queue(0).Read(got, 8))
	if !bytes.Equal(got, pattern(4096, 1)) {
		t.Error("it reads something else")
	}
	if err := errors.Join(l.Free(), home.Close(), <-g.ended); err != nil {
		t.Error(err)
	}
	g.ended, g.r = ended, to
	g.leave()
}

// What has become of the disk while it was away: a larger one is shown to the guest,
// and what is not the same disk is refused.
func TestDiskChangesWhileAway(t *testing.T) {
	r := plainRig(t, 1).movable()
	g := r.connect(frontend.Options{})
	change := func(bytes int64) error {
		t.Helper()
		l := g.startLog()
		bases := g.stopAll()
		if err := os.Truncate(r.path, bytes); err != nil {
			t.Fatal(err)
		}
		return errors.Join(g.stays(bases), l.Free())
	}
	if err := change(2 << 20); err != nil {
		t.Fatal(err)
	}
	g.want("write", driver.StatusOK, g.Queue(0).Write(pattern(512, 1), 4095))
	if b, err := g.Client.Config(0, 8); err != nil || binary.LittleEndian.Uint64(b) != 4096 {
		t.Errorf("capacity %x, %v", b, err)
	}
	if err := change(1 << 20); !errors.As(err, new(frontend.RefusedError)) {
		t.Errorf("a disk that has shrunk: %v", err)
	}
	r.logged("the disk is not the one that the guest was shown")
	g.leave()

	zoned := zonedRig(t, smallZones, 1).movable()
	next := zoned.incomingRig()
	zoned.close()
	if err := os.Remove(zoned.path); err != nil {
		t.Fatal(err)
	}
	other := smallZones
	other.MaxActive = 5
	if err := image.Create(zoned.path, other); err != nil {
		t.Fatal(err)
	}
	client, ended := next.dial()
	if _, err := frontend.Open(client, frontend.Options{}); !errors.As(err, new(frontend.RefusedError)) {
		t.Errorf("another disk: %v", err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	next.logged("the disk is not the one that the guest was shown")
}

// What is asked of a disk over the control socket while it is away is refused.
func TestControlWhileAway(t *testing.T) {
	r := zonedRig(t, smallZones, 1)
	next := r.incomingRig()
	path := filepath.Join(t.TempDir(), "control")
	defer next.control(path).close()
	for _, ask := range []control.Request{
		{Command: control.FaultAdd, Faults: []disk.Fault{{Kind: disk.FaultRead}}},
		{Command: control.SetState, Zones: "1", State: "offline"},
		{Command: control.Resize},
	} {
		if _, err := control.Call(path, ask); err == nil || !strings.Contains(err.Error(), "another zvhost has") {
			t.Errorf("%s: %v", ask.Command, err)
		}
	}
	r.close()
	g := next.connect(frontend.Options{})
	if a, err := control.Call(path, control.Request{Command: control.SetState, Zones: "1", State: "offline"}); err != nil || a.Zones != 1 {
		t.Errorf("the disk is here: %+v, %v", a, err)
	}
	if z := next.dev.disk.ReportZone(1); z.State != zone.Offline {
		t.Errorf("zone 1: %+v", z)
	}
	g.leave()
}

// A migration is cancelled when the daemon on the other side has died with the disk: what
// waits may have been carried out there, whatever the record of requests in flight says
// of the time before.
func TestMigrationFailsWithADeadDaemon(t *testing.T) {
	r := zonedRig(t, smallZones, 1).movable()
	g := r.connect(frontend.Options{Inflight: true})
	q := g.Queue(0)
	g.want("append", driver.StatusOK, firstOf(q.Append(pattern(4096, 1), 128)))
	l := g.startLog()
	bases := g.stopAll()
	req := q.Get()
	req.Type, req.Sector = driver.TypeZoneAppend, 128
	req.SetLen(4096)
	if err := errors.Join(q.Submit(req), q.Kick()); err != nil {
		t.Fatal(err)
	}
	other, err := r.reopen()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Renew(other); err != nil {
		t.Fatal(err)
	}
	im, err := os.ReadFile(copyOf(t, r.path)) // as it is when that one dies
	if err := errors.Join(err, other.Close(), os.WriteFile(r.path, im, 0o600), g.stays(bases)); err != nil {
		t.Fatal(err)
	}
	var done [1]*frontend.Request
	if _, err := q.Wait(done[:]); err != nil || done[0].Status != driver.StatusIOErr {
		t.Fatalf("what waited: status %d, %v", done[0].Status, err)
	}
	q.Put(done[0])
	g.want("what comes later", driver.StatusOK, firstOf(q.Append(pattern(4096, 1), 128)))
	if err := l.Free(); err != nil {
		t.Error(err)
	}
	g.leave()
}

// A migration is cancelled when the other side is up: the guest goes on where it
// was. A guest that only stops for a while keeps its disk.
func TestMigrationFails(t *testing.T) {
	for name, r := range map[string]*rig{"zoned": zonedRig(t, smallZones, 1), "ordinary": plainRig(t, 1)} {
		t.Run(name, func(t *testing.T) {
			r.movable()
			to := r.incomingRig()
			g := r.connect(frontend.Options{})
			free := func(want bool) {
				t.Helper()
				d, err := backend.Open(r.path, disk.Options{})
				if err == nil {
					err = d.Close()
				}
				if (err == nil) != want {
					t.Fatalf("the disk can be had: %v", err)
				}
			}
			write := func(sector, seed uint64) {
				t.Helper()
				g.want("write", driver.StatusOK, g.Queue(0).Write(pattern(4096, seed), sector))
			}
			write(128, 1)
			bases := g.stopAll()
			free(false)
			if err := g.stays(bases); err != nil {
				t.Fatal(err)
			}
			write(136, 2)
			l := g.startLog()
			bases = g.stopAll()
			free(true)
			r.logged("the disk is released")
			c, ended := to.dial()
			if p, err := c.ProtocolFeatures(); err != nil {
				t.Fatal(err)
			} else if err := c.SetProtocolFeatures(p); err != nil {
				t.Fatal(err)
			}
			shown, err := c.Config(0, driver.BlkConfigBytes)
			if want, werr := g.Client.Config(0, driver.BlkConfigBytes); err != nil || werr != nil || !bytes.Equal(shown, want) {
				t.Errorf("the other side shows %x (%v), here it is %x (%v)", shown, err, want, werr)
			}
			if err := g.stays(bases); err != nil {
				t.Fatalf("%v\n%s", err, r.book)
			}
			free(false)
			if err := l.Stop(); err != nil {
				t.Fatal(err)
			}
			write(144, 3)
			got := make([]byte, 3*4096)
			g.want("read", driver.StatusOK, g.Queue(0).Read(got, 128))
			if !bytes.Equal(got, bytes.Join([][]byte{pattern(4096, 1), pattern(4096, 2), pattern(4096, 3)}, nil)) {
				t.Error("what was written is not there any more")
			}
			if err := errors.Join(c.Close(), <-ended); err != nil {
				t.Error(err)
			}
			g.leave()
		})
	}
}

// A disk that cannot store what it was given stays, and goes on to say so: neither here
// nor elsewhere may a flush behind that succeed.
func TestDiskThatIsNotStoredStays(t *testing.T) {
	r := plainRig(t, 1).movable()
	bad := &syncFailsOnce{}
	open := r.dev.engine
	r.dev.engine = func(wake func()) (engine.Engine, error) {
		e, err := open(wake)
		bad.Engine = e
		return bad, err
	}
	g := r.connect(frontend.Options{})
	g.want("write", driver.StatusOK, g.Queue(0).Write(pattern(4096, 1), 8))
	g.want("flush", driver.StatusIOErr, g.Queue(0).Flush())
	l := g.startLog()
	if _, err := g.Queue(0).Stop(); err == nil {
		t.Error("the front-end is not told")
	}
	if err := <-g.ended; err == nil || !strings.Contains(err.Error(), "the disk is not released") {
		t.Errorf("the session ends with %v", err)
	}
	if err := errors.Join(l.Free(), g.Abandon()); err != nil {
		t.Error(err)
	}
	if _, err := backend.Open(r.path, disk.Options{}); !disk.IsInUse(err) {
		t.Errorf("somebody else can have it: %v", err)
	}
	g = r.connect(frontend.Options{})
	g.want("flush", driver.StatusIOErr, g.Queue(0).Flush())
	g.leave()
	r.closed = true
	if err := r.dev.Close(); err != nil {
		t.Error(err)
	}
	if err := r.dev.disk.Close(); err == nil || !strings.Contains(err.Error(), "earlier sync failed") {
		t.Errorf("closed with %v", err)
	}
}

// syncFailsOnce is an engine whose first sync fails.
type syncFailsOnce struct {
	engine.Engine
	done bool
}

func (e *syncFailsOnce) Queue(op *engine.Op) {
	if op.Code == engine.Fdatasync && !e.done {
		e.done = true
		op.FD = -1
	}
	e.Engine.Queue(op)
}

// The disk grows between a destination's look at it and the guest's departure: the state
// that comes along is one of the same disk.
func TestStateOfADiskThatHasGrown(t *testing.T) {
	from := plainRig(t, 1).movable()
	to := from.incomingRig()
	g := from.connect(frontend.Options{})
	if err := os.Truncate(from.path, 2<<20); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := from.dev.Grow(); err != nil {
		t.Fatal(err)
	}
	g.stopAll()
	state, err := g.Client.SaveState()
	if err != nil {
		t.Fatalf("%v\n%s", err, from.book)
	}
	c, ended := to.dial()
	if p, err := c.ProtocolFeatures(); err != nil {
		t.Fatal(err)
	} else if err := c.SetProtocolFeatures(p); err != nil {
		t.Fatal(err)
	}
	if err := c.LoadState(state); err != nil {
		t.Errorf("%v\n%s", err, to.book)
	}
	if b, err := c.Config(0, 8); err != nil || binary.LittleEndian.Uint64(b) != 4096 {
		t.Errorf("capacity %x, %v", b, err)
	}
	if err := errors.Join(c.Close(), <-ended); err != nil {
		t.Error(err)
	}
	g.vanish()
}

// A disk without storage is nobody else's, also where a process before this one, with
// another disk, has left word that it had let go of that.
func TestNothingToBeAway(t *testing.T) {
	disk, err := backend.NewNull(2048)
	if err != nil {
		t.Fatal(err)
	}
	log, book := testlog.New()
	dev, err := New(disk, Options{Queues: 1, Log: log, Detached: true})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, disk: disk, dev: dev, book: book}
	defer r.close()
	g := r.connect(frontend.Options{})
	g.want("flush", driver.StatusOK, g.Queue(0).Flush())
	g.leave()
}
