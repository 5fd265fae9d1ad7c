package crash

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
	m := &mover{dir: t.TempDir(), rng: rand.New(rand.NewPCG(seed, 0)), landed: map[uint64]uint64{}}
	if _, err := run(binary, m.dir, "create", "disk.zvh", "--size", "32M", "--zone-size", "4M"); err != nil {
		t.Fatal(err)
	}
	sockets := [2]string{"s", "t"}
	var sides [2]*kept
	for i, options := range [2][]string{nil, {"--incoming"}} {
		p, err := launchAs(binary, m.dir, nil, append([]string{"keeper", "--", binary, "serve", "--socket-path", sockets[i], "--blk-file", "disk.zvh", "--queues", fmt.Sprint(moveQueues)}, options...)...)
		if err != nil {
			t.Fatal(err)
		}
		sides[i] = &kept{p}
		if err := p.ready(); err != nil {
			t.Fatal(err)
		}
	}
	c, err := frontend.Dial(filepath.Join(m.dir, sockets[0]))
	if err != nil {
		t.Fatal(err)
	}
	if m.disk, err = frontend.Open(c, frontend.Options{Queues: moveQueues, QueueSize: 64, Depth: moveAppends, BufferBytes: moveBlock}); err != nil {
		t.Fatal(err)
	}
	fail := func(what string, round int, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("replay with -seed=%d: round %d: %s: %v\n%s\n%s", seed, round, what, err, sides[0].logged(), sides[1].logged())
		}
	}
	kills := 0
	for round := range moveRounds {
		fail("send", round, m.send())
		victim, after := sides[m.rng.IntN(2)], time.Duration(m.rng.IntN(8000))*time.Microsecond
		killed := make(chan bool)
		go func() {
			time.Sleep(after)
			killed <- victim.killChild()
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
	fail("the end", moveRounds, errors.Join(m.disk.Close(), sides[0].stop(), sides[1].stop()))
	if out, err := run(binary, m.dir, "check", "disk.zvh"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	t.Logf("%d kills in %d moves, %d appends", kills, moveRounds, len(m.landed))
	if kills == 0 {
		t.Error("a run that shows nothing")
	}
}

// The daemon that a guest has come to dies between the disk's opening and the first
// request: nobody has carried out what waits in the queues, and the next one does.
func TestKillBeforeAnythingIsServed(t *testing.T) {
	binary := build(t, "zvhost_failpoints")
	for _, point := range []failpoint.Point{failpoint.Opened, failpoint.InUse, failpoint.Started, failpoint.PickedUp} {
		t.Run(point.String(), func(t *testing.T) {
			m := &mover{dir: t.TempDir(), landed: map[uint64]uint64{}}
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			_, err := run(binary, m.dir, "create", "disk.zvh", "--size", "32M", "--zone-size", "4M")
			must(err)
			serve := func(socket string, env []string, options ...string) *kept {
				p, err := launchAs(binary, m.dir, env, append([]string{"keeper", "--", binary, "serve", "--socket-path", socket, "--blk-file", "disk.zvh", "--queues", fmt.Sprint(moveQueues)}, options...)...)
				must(err)
				must(p.ready())
				return &kept{p}
			}
			armed := filepath.Join(m.dir, "failpoint")
			must(os.WriteFile(armed, []byte(point.String()+" 1"), 0o600))
			from, to := serve("s", nil), serve("t", []string{"ZVHOST_FAILPOINT=" + armed}, "--incoming")
			c, err := frontend.Dial(filepath.Join(m.dir, "s"))
			must(err)
			m.disk, err = frontend.Open(c, frontend.Options{Queues: moveQueues, QueueSize: 64, Depth: moveAppends, BufferBytes: moveBlock})
			must(err)
			must(m.send())
			must(m.take())
			bases, err := m.stop()
			must(err)
			must(m.send())
			must(m.moveTo("t", bases))
			if err := m.take(); err != nil || !strings.Contains(to.logged(), "failpoint "+point.String()) {
				t.Errorf("%v\n%s", err, to.logged())
			}
			must(errors.Join(m.disk.Close(), from.stop(), to.stop()))
		})
	}
}
