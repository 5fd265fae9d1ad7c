package crash

import (
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/vhostuser/frontend"
)

var reconnectsFlag = flag.Int("reconnects", 60, "how often the daemon is killed under a front-end that connects anew")

// A meeting is where queues wait, when the daemon is gone, for a connection to the
// next one.
type meeting struct {
	mu      sync.Mutex
	changed sync.Cond
	here    int // queues that wait
	all     int // queues that are still at it
	times   int
	err     error
	redial  func() error
}

func newMeeting(redial func() error) *meeting {
	m := &meeting{all: queues, redial: redial}
	m.changed.L = &m.mu
	return m
}

// meet waits for all others; the last one to come connects anew.
func (m *meeting) meet() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.here++
	m.goOn()
	for was := m.times; m.times == was && m.here > 0 && m.err == nil; {
		m.changed.Wait()
	}
	return m.err
}

// leave is for a queue that is done.
func (m *meeting) leave() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all--
	m.goOn()
}

// goOn connects anew if nobody is missing.
func (m *meeting) goOn() {
	if m.here == 0 || m.here < m.all {
		return
	}
	m.err = errors.Join(m.err, m.redial())
	m.here = 0
	m.times++
	m.changed.Broadcast()
}

// redial connects to the daemon that comes next.
func (g *guest) redial(dir string) error {
	for try := 0; ; try++ {
		c, err := frontend.Dial(filepath.Join(dir, "s"))
		if err == nil {
			err = g.disk.Reconnect(c)
		}
		if err == nil || !errors.Is(err, frontend.ErrGone) && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT) {
			return err // else it was killed while it started, or has not started yet
		}
		if try == 24_000 {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// The daemon is killed, and the front-end connects to the next one with the record
// of what was in flight: every request is carried out once.
func TestKillAndReconnect(t *testing.T) {
	binary, seed, total := build(t, ""), newSeed(), &tally{}
	for i := range geometries {
		t.Run(geometries[i].Name, func(t *testing.T) {
			c := start(t, binary, seed, i, total)
			if err := c.runReconnecting(max(1, *reconnectsFlag/perVisit/len(geometries))); err != nil {
				t.Errorf("replay with -seed=%d -reconnects=%d: %v", seed, *reconnectsFlag, err)
			}
		})
	}
	t.Log(total)
	if total.kills == 0 || total.answered == 0 {
		t.Errorf("a run that shows nothing: %v", total)
	}
}

func (c *trial) runReconnecting(visits int) error {
	c.inflight = true
	before, p, err := c.begin()
	if err != nil {
		return err
	}
	defer func() { kill(p) }()
	again := func() (err error) {
		kill(p)
		c.tally.kills++
		p, _, err = restart(c.binary, c.dir, c.rng)
		return err
	}
	for v := range visits {
		before, err = c.visit(before, visitor{
			disturb: func(g *guest) error {
				for range perVisit {
					g.answered(1 + c.rng.IntN(1+c.rng.IntN(600)))
					if err := again(); err != nil {
						return err
					}
				}
				g.answered(100)
				return nil
			},
			reconnects: true,
			idle: func(g *guest) error {
				if err := again(); err != nil {
					return err
				}
				return g.redial(c.dir)
			},
		})
		if err != nil {
			return fmt.Errorf("visit %d: %w\n%s", v, err, p.Log())
		}
	}
	return nil
}

// The keeper is told that the binary was replaced, and systemd restarts in the same
// way: the daemon finishes what it does and leaves the rest to the next one.
func TestUpgradeUnderLoad(t *testing.T) {
	binary, seed, total := build(t, ""), newSeed(), &tally{}
	upgrades := 0 // kills besides: a visit may end with one
	for _, i := range []int{0, len(geometries) - 1} {
		c := start(t, binary, seed, i, total)
		err := c.runKept(2, func(k *rig.Daemon, g *guest, _ int) error {
			for range 5 {
				g.answered(50)
				was := k.Child()
				if err := k.Cmd.Process.Signal(unix.SIGHUP); err != nil {
					return err
				}
				if err := rig.Await("another daemon", func() (bool, error) {
					now := k.Child()
					return now != 0 && now != was, k.Gone()
				}); err != nil {
					return fmt.Errorf("%w\n%s", err, k.Log())
				}
				upgrades++
			}
			g.answered(50)
			return nil
		})
		if err != nil {
			t.Errorf("replay with -seed=%d: %v", seed, err)
		}
	}
	t.Log(total)
	if upgrades != 20 {
		t.Errorf("started anew %d times, not 20", upgrades)
	}
}
