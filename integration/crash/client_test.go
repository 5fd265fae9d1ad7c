package crash

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

const (
	queues      = 4
	depth       = 8 // requests in flight on each
	bufferBytes = 128 << 10

	sectorBytes = rig.SectorBytes
)

// A load is what the four queues do in one round, and its history.
type load struct {
	g    *rig.Geometry
	disk *frontend.Disk
	seed uint64

	mu     sync.Mutex // guards what follows
	stamp  int        // of the next event
	nextID *uint64
	ops    []*op
	guess  []uint64           // where each zone's write pointer will be when all in flight is done
	told   []uint64           // the highest end of an answer since the last reset
	left   int                // answers until due
	due    chan struct{}      // closed when the daemon is to be killed
	failed error              // a flush that failed
	tables [queues][depth]*op // what is in flight on each queue, by tag
}

// drive keeps queue i busy until the daemon is gone.
func (l *load) drive(i int, rng *rand.Rand) error {
	q := l.disk.Queue(i)
	table := &l.tables[i]
	for tag := range table {
		r := q.Get()
		r.Tag = uint64(tag)
		table[tag] = l.offer(i, rng, r)
		if err := q.Submit(r); err != nil {
			return err
		}
	}
	done := make([]*frontend.Request, depth)
	for {
		if err := q.Kick(); err != nil {
			return err
		}
		n, err := q.Wait(done)
		if errors.Is(err, frontend.ErrGone) {
			return nil
		} else if err != nil {
			return err
		}
		l.answer(table, done[:n])
		for _, r := range done[:n] {
			table[r.Tag] = l.offer(i, rng, r)
			if err := q.Submit(r); err != nil {
				return err
			}
		}
	}
}

// collect takes the answers that the daemon had given when it was killed, and
// nobody had looked at.
func (l *load) collect() error {
	for i := range queues {
		done := make([]*frontend.Request, depth)
		n, err := l.disk.Queue(i).Poll(done)
		if err != nil {
			return err
		}
		l.answer(&l.tables[i], done[:n])
	}
	return nil
}

// answer notes answers.
func (l *load) answer(table *[depth]*op, done []*frontend.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range done {
		o := table[r.Tag]
		table[r.Tag] = nil
		switch {
		case o != nil:
			l.note(o, r)
		case r.Status != driver.StatusOK && l.failed == nil:
			l.failed = fmt.Errorf("a flush failed: %s", driver.StatusString(r.Status))
		}
		if l.left--; l.left == 0 {
			close(l.due)
		}
	}
}

func (l *load) note(o *op, r *frontend.Request) {
	o.ret, o.status = l.stamp, r.Status
	l.stamp++
	if o.zone < l.g.Conventional {
		return
	}
	switch {
	case o.status == driver.StatusOK && o.typ == driver.TypeZoneAppend:
		o.at = r.AppendSector - uint64(o.zone)*l.g.Zone
		l.told[o.zone] = max(l.told[o.zone], o.at+o.n)
	case o.status == driver.StatusOK && o.typ == driver.TypeOut:
		l.told[o.zone] = max(l.told[o.zone], o.at+o.n)
	case o.hasData(): // refused: the guess was wrong
		l.guess[o.zone] = l.told[o.zone]
	}
}

// offer makes r a request for queue i, and enters it into the history; nil
// stands for a flush, which has no place there.
func (l *load) offer(i int, rng *rand.Rand, r *frontend.Request) *op {
	l.mu.Lock()
	defer l.mu.Unlock()
	zone := l.g.Conventional + rng.IntN(l.g.Zones()-l.g.Conventional)
	if rng.IntN(3) > 0 { // some zones see more than others
		zone = l.g.Conventional + (zone-l.g.Conventional)/3
	}
	n := uint64(1) << (2 * rng.IntN(3)) * l.g.Block
	o := &op{zone: zone, ret: never, typ: driver.TypeZoneAppend, n: min(n, l.g.Capacity(zone), bufferBytes/sectorBytes)}
	full := l.guess[zone]+o.n > l.g.Capacity(zone)
	switch k := rng.IntN(1000); {
	case k < 50:
		r.Type, r.Sector, r.Data = driver.TypeFlush, 0, r.Buffer()[:0]
		return nil
	case k < 150 && l.g.Conventional > 0:
		o.typ, o.zone = driver.TypeOut, rng.IntN(l.g.Conventional)
		o.n = min(o.n, l.g.Length(o.zone))
		o.at = rng.Uint64N((l.g.Length(o.zone)-o.n)/l.g.Block+1) * l.g.Block
	case k < 180:
		o.typ = driver.TypeZoneOpen
	case k < 220:
		o.typ = driver.TypeZoneClose
	case k < 240:
		o.typ = driver.TypeZoneFinish
		l.guess[zone] = l.g.Capacity(zone)
	case k < 270, full && k < 900:
		if o.typ = driver.TypeZoneReset; k%4 == 0 {
			o.typ = driver.TypeSecureErase
		}
		l.guess[zone], l.told[zone] = 0, 0
	case k < 273:
		o.typ, o.zone = driver.TypeZoneResetAll, -1
		clear(l.guess)
		clear(l.told)
	case k < 600 && zone%queues == i && !full: // plain writes of a zone come from one queue, as with Linux
		o.typ, o.at = driver.TypeOut, l.guess[zone]
		l.guess[zone] += o.n
	case k < 610 && !full: // but for some that are in nobody's interest
		o.typ, o.at = driver.TypeOut, l.guess[zone]
	default:
		l.guess[zone] = min(l.guess[zone]+o.n, l.g.Capacity(zone))
	}
	l.dress(o, r)
	o.call = l.stamp
	l.stamp++
	l.ops = append(l.ops, o)
	return o
}

// dress makes r carry o.
func (l *load) dress(o *op, r *frontend.Request) {
	r.Type = o.typ
	r.Sector = uint64(max(o.zone, 0)) * l.g.Zone
	if !o.hasData() {
		o.n = 0
		r.SetLen(0)
		if o.typ == driver.TypeSecureErase { // of the whole zone
			r.SetLen(driver.SegmentBytes)
			driver.PutSegment(r.Data, r.Sector, uint32(l.g.Length(o.zone)), 0)
			r.Sector = 0
		}
		return
	}
	if o.typ == driver.TypeOut {
		r.Sector += o.at
	}
	*l.nextID++
	o.id = *l.nextID
	r.SetLen(int(o.n * sectorBytes))
	rig.Fill(r.Data, l.seed, o.id)
}

// storm runs the load until the daemon is killed at its chosen instant.
func (l *load) storm(p *rig.Daemon, rng *rand.Rand) error {
	var group sync.WaitGroup
	errs := make(chan error, queues)
	for i := range queues {
		mine := rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64()))
		group.Go(func() { errs <- l.drive(i, mine) })
	}
	var err error
	select {
	case <-l.due:
	case err = <-errs: // nobody leaves before the daemon does
		if err == nil {
			err = fmt.Errorf("zvhost left by itself:\n%s", p.Log())
		}
		errs <- nil
	}
	kill(p)
	group.Wait()
	for range queues {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		return fmt.Errorf("the load: %w", err)
	}
	return errors.Join(l.collect(), l.failed)
}
