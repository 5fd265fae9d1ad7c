package crash

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/internal/failpoint"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

const (
	moveRounds  = 30
	moveQueues  = 2
	moveAppends = 8 // of each queue and round
	moveBlock   = 4096
)

// A mover is a guest that goes to and fro between two daemons, each under a keeper.
type mover struct {
	disk   *frontend.Disk
	dir    string
	rng    *rand.Rand
	sent   uint64
	landed map[uint64]uint64 // sector -> number of the append
}

// send has appends in flight.
func (m *mover) send() error {
	for i := range moveQueues {
		q := m.disk.Queue(i)
		for range moveAppends {
			r := q.Get()
			m.sent++
			r.Type, r.Sector, r.Tag = driver.TypeZoneAppend, m.sent%8*8192, m.sent
			r.SetLen(moveBlock)
			copy(r.Data, moveData(m.sent))
			if err := q.Submit(r); err != nil {
				return err
			}
		}
		if err := q.Kick(); err != nil {
			return err
		}
	}
	return nil
}

func moveData(n uint64) []byte {
	return bytes.Repeat(binary.LittleEndian.AppendUint64(nil, n), moveBlock/8)
}

// take waits until all are answered.
func (m *mover) take() error {
	var done [moveAppends]*frontend.Request
	for i := range moveQueues {
		for q := m.disk.Queue(i); q.InFlight() > 0; {
			n, err := q.Wait(done[:])
			if err != nil {
				return err
			}
			for _, r := range done[:n] {
				if r.Status != driver.StatusOK {
					return fmt.Errorf("append %d: %s", r.Tag, driver.StatusString(r.Status))
				}
				if was, twice := m.landed[r.AppendSector]; twice {
					return fmt.Errorf("appends %d and %d both landed at sector %d", was, r.Tag, r.AppendSector)
				}
				m.landed[r.AppendSector] = r.Tag
				q.Put(r)
			}
		}
	}
	return nil
}

// stop stops the queues, of a guest whose writes are logged.
func (m *mover) stop() (bases []uint32, err error) {
	log, err := m.disk.StartLog()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, log.Free()) }()
	for i := range moveQueues {
		base, err := m.disk.Queue(i).Stop()
		if err != nil {
			return nil, err
		}
		bases = append(bases, base)
	}
	return bases, nil
}

// moveTo goes on at the daemon that listens on socket. A connection that its daemon
// dies of before it is in the fd store is lost (docs/restart.md), so there may be
// several.
func (m *mover) moveTo(socket string, bases []uint32) (err error) {
	for range 20 {
		c, derr := frontend.Dial(filepath.Join(m.dir, socket))
		if derr != nil {
			return derr
		}
		left, merr := m.disk.Move(c, bases)
		if merr == nil {
			return left.Close()
		}
		if err = errors.Join(merr, c.Close()); !errors.Is(merr, frontend.ErrGone) {
			return err
		}
	}
	return err
}

// A guest goes to and fro between two daemons, and one of the two is killed whenever
// it does: it notices nothing, every append is carried out once, and the one that has
// let go of the disk does not take it.
func TestKillWhileItMoves(t *testing.T) {
	binary, seed := build(t, ""), newSeed()
	t.Logf("-seed=%d", seed)
	m, from := newMover(t, binary)
	m.rng = rand.New(rand.NewPCG(seed, 0))
	sockets := [2]string{"s", "t"}
	sides := [2]*rig.Daemon{from, m.keep(t, binary, sockets[1], "disk.zvh", nil, "--incoming")}
	fail := func(what string, round int, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("replay with -seed=%d: round %d: %s: %v\n%s\n%s", seed, round, what, err, sides[0].Log(), sides[1].Log())
		}
	}
	kills := 0
	for round := range moveRounds {
		fail("send", round, m.send())
		victim, after := sides[m.rng.IntN(2)], time.Duration(m.rng.IntN(8000))*time.Microsecond
		killed := make(chan bool)
		go func() {
			time.Sleep(after)
			killed <- victim.KillChild()
		}()
		bases, err := m.stop()
		fail("stop", round, err)
		fail("move", round, m.moveTo(sockets[(round+1)%2], bases))
		fail("answers", round, m.take())
		if <-killed {
			kills++
		}
	}
	read := make([]byte, moveBlock)
	for sector, n := range m.landed {
		if err := m.disk.Queue(0).Read(read, sector); err != nil || !bytes.Equal(read, moveData(n)) {
			t.Errorf("sector %d does not have append %d: %v", sector, n, err)
		}
	}
	zones, err := m.disk.Queue(0).ReportAll()
	fail("report", moveRounds, err)
	written := uint64(0)
	for _, z := range zones {
		written += z.WP - z.Start
	}
	if want := uint64(len(m.landed)) * moveBlock / 512; written != want || m.sent != uint64(len(m.landed)) {
		t.Errorf("%d appends were sent, %d answered, and the zones have %d sectors, not %d", m.sent, len(m.landed), written, want)
	}
	fail("the end", moveRounds, errors.Join(m.disk.Close(), sides[0].End(unix.SIGTERM), sides[1].End(unix.SIGTERM)))
	if _, err := rig.Run(binary, "check", image(m.dir)); err != nil {
		t.Error(err)
	}
	t.Logf("%d kills in %d moves, %d appends", kills, moveRounds, len(m.landed))
	if kills == 0 {
		t.Error("a run that shows nothing")
	}
}

// keep starts a daemon under a keeper.
func (m *mover) keep(t *testing.T, binary, socket, disk string, env []string, options ...string) *rig.Daemon {
	t.Helper()
	args := []string{"keeper", "--", binary, "serve", "--socket-path", socket, "--blk-file", disk, "--queues", fmt.Sprint(moveQueues)}
	p, err := launchAs(binary, m.dir, env, append(args, options...)...)
	if err == nil {
		err = p.Ready()
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// arm has the daemon die at point that is started with the environment it returns.
func (m *mover) arm(t *testing.T, point failpoint.Point) (env []string) {
	t.Helper()
	armed := filepath.Join(m.dir, "failpoint")
	if err := os.WriteFile(armed, []byte(point.String()+" 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"ZVHOST_FAILPOINT=" + armed}
}

// died waits until the daemon has said that it dies at point; what the guest sees of it may
// come first.
func died(p *rig.Daemon, point failpoint.Point) bool {
	return p.AwaitLog(1, "failpoint "+point.String()) == nil
}

// newMover is a guest that has written to the disk that a daemon serves.
func newMover(t *testing.T, binary string) (m *mover, from *rig.Daemon) {
	t.Helper()
	m = &mover{dir: t.TempDir(), landed: map[uint64]uint64{}}
	if _, err := rig.Run(binary, "create", image(m.dir), "--size", "32M", "--zone-size", "4M"); err != nil {
		t.Fatal(err)
	}
	from = m.keep(t, binary, "s", "disk.zvh", nil)
	var err error
	if m.disk, err = rig.Connect(filepath.Join(m.dir, "s"), frontend.Options{Queues: moveQueues, QueueSize: 64, Depth: moveAppends, BufferBytes: moveBlock}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.send(), m.take()); err != nil {
		t.Fatal(err)
	}
	return m, from
}

// The daemon that a guest has come to dies between the disk's opening and the first
// request: nobody has carried out what waits in the queues, and the next one does.
func TestKillBeforeAnythingIsServed(t *testing.T) {
	binary := build(t, "zvhost_failpoints")
	for _, point := range []failpoint.Point{failpoint.Opened, failpoint.InUse, failpoint.Begun, failpoint.Started, failpoint.PickedUp} {
		t.Run(point.String(), func(t *testing.T) {
			m, from := newMover(t, binary)
			to := m.keep(t, binary, "t", "disk.zvh", m.arm(t, point), "--incoming")
			bases, err := m.stop()
			if err := errors.Join(err, m.send(), m.moveTo("t", bases)); err != nil {
				t.Fatal(err)
			}
			if err := m.take(); err != nil || !died(to, point) {
				t.Errorf("%v\n%s", err, to.Log())
			}
			if err := errors.Join(m.disk.Close(), from.End(unix.SIGTERM), to.End(unix.SIGTERM)); err != nil {
				t.Error(err)
			}
		})
	}
}
