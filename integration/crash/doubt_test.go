package crash

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/internal/failpoint"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// A guest that has no record comes from a daemon that died to one that dies as well:
// what waits in its queues, and may have been carried out, stays in doubt until it is
// answered. Nothing is carried out by the third one.
func TestKillWhileInDoubt(t *testing.T) {
	binary := build(t, "zvhost_failpoints")
	for _, point := range []failpoint.Point{failpoint.Begun, failpoint.Started, failpoint.PickedUp, failpoint.Take, failpoint.Pushed, failpoint.Published, failpoint.Called} {
		t.Run(point.String(), func(t *testing.T) {
			m, from := newMover(t, binary)
			m.die(t)
			to := m.keep(t, binary, "t", "dead.zvh", m.arm(t, point))
			bases, err := m.stop()
			if err := errors.Join(err, m.send(), m.moveTo("t", bases)); err != nil {
				t.Fatal(err)
			}
			if refused, err := m.refused(); err != nil || refused != moveQueues*moveAppends || !died(to, point) {
				t.Errorf("%d appends are refused, %v\n%s", refused, err, to.Log())
			}
			if err := errors.Join(m.send(), m.take()); err != nil { // where nobody has written
				t.Errorf("what comes later: %v\n%s", err, to.Log())
			}
			if err := errors.Join(m.disk.Close(), from.End(unix.SIGTERM), to.End(unix.SIGTERM)); err != nil {
				t.Error(err)
			}
		})
	}
}

// refused waits until all are answered, and says how many have an I/O error.
func (m *mover) refused() (n int, err error) {
	var done [moveAppends]*frontend.Request
	for i := range moveQueues {
		for q := m.disk.Queue(i); q.InFlight() > 0; {
			k, err := q.Wait(done[:])
			if err != nil {
				return n, err
			}
			for _, r := range done[:k] {
				if r.Status == driver.StatusIOErr {
					n++
				}
				q.Put(r)
			}
		}
	}
	return n, nil
}

// What waits in the queues of a guest without a record stays in doubt where the daemon
// after the one that died ends in good order before the guest has come.
func TestUpgradeWhileInDoubt(t *testing.T) {
	binary := build(t, "")
	m, from := newMover(t, binary)
	m.die(t)
	to := m.keep(t, binary, "t", "dead.zvh", nil)
	upgrade(t, to)
	bases, err := m.stop()
	if err := errors.Join(err, m.send(), m.moveTo("t", bases)); err != nil {
		t.Fatal(err)
	}
	if refused, err := m.refused(); err != nil || refused != moveQueues*moveAppends {
		t.Errorf("%d appends are refused, %v\n%s", refused, err, to.Log())
	}
	upgrade(t, to)
	if err := errors.Join(m.send(), m.take()); err != nil {
		t.Errorf("what comes later: %v\n%s", err, to.Log())
	}
	if err := errors.Join(m.disk.Close(), from.End(unix.SIGTERM), to.End(unix.SIGTERM)); err != nil {
		t.Error(err)
	}
}

// What a guest sends once it has seen that all that waited in a queue is refused is new,
// though the daemon has died that refused it.
func TestKillOnceDoubtIsAnswered(t *testing.T) {
	binary := build(t, "zvhost_failpoints")
	for _, point := range []failpoint.Point{failpoint.Published, failpoint.Called} {
		t.Run(point.String(), func(t *testing.T) {
			m, from := newMover(t, binary)
			m.die(t)
			to := m.keep(t, binary, "t", "dead.zvh", m.arm(t, point))
			bases, err := m.stop()
			if err := errors.Join(err, m.send()); err != nil {
				t.Fatal(err)
			}
			sent := make(chan error)
			go func() { sent <- m.sendOnceRefused(m.disk.Queue(0)) }()
			if err := errors.Join(m.moveTo("t", bases), <-sent); err != nil {
				t.Fatal(err)
			}
			// In the other queue.
			if refused, err := m.refused(); err != nil || refused != moveAppends || !died(to, point) {
				t.Errorf("%d appends are refused, %v\n%s", refused, err, to.Log())
			}
			if err := errors.Join(m.disk.Close(), from.End(unix.SIGTERM), to.End(unix.SIGTERM)); err != nil {
				t.Error(err)
			}
		})
	}
}

// sendOnceRefused sends appends to queue q once all that waits there is answered.
func (m *mover) sendOnceRefused(q *frontend.Queue) error {
	var done [moveAppends]*frontend.Request
	for n := 0; n < len(done); {
		k, err := q.Poll(done[n:])
		if err != nil {
			return err
		}
		n += k
	}
	for _, r := range done {
		q.Put(r)
		r = q.Get()
		r.Type, r.Sector = driver.TypeZoneAppend, 0
		r.SetLen(moveBlock)
		if err := q.Submit(r); err != nil {
			return err
		}
	}
	return q.Kick()
}

// die makes dead.zvh: the disk as it is when its daemon dies now.
func (m *mover) die(t *testing.T) {
	t.Helper()
	err := m.disk.Queue(0).Flush()
	var disk []byte
	if err == nil {
		disk, err = os.ReadFile(image(m.dir))
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(m.dir, "dead.zvh"), disk, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// upgrade has the keeper start another daemon in the place of the one that runs.
func upgrade(t *testing.T, k *rig.Daemon) {
	t.Helper()
	was := strings.Count(k.Log(), " serving ")
	if err := errors.Join(k.Cmd.Process.Signal(unix.SIGHUP), k.AwaitLog(was+1, " serving ")); err != nil {
		t.Fatal(err)
	}
}
