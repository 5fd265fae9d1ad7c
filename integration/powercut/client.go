package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

const (
	queues      = 4
	depth       = 16 // requests in flight on each
	bufferBytes = 64 << 10

	sectorBytes = rig.SectorBytes
)

// A zoneLoad is what is under way in a zone.
type zoneLoad struct {
	flight   int    // writes in flight
	busy     bool   // a request that wants to be alone is in flight
	reserved uint64 // sectors written and in flight
	full     bool
}

// An op is a request in flight.
type op struct {
	typ  uint32
	zone int
	w    *write // of what carries data
	call int
}

// A client keeps the queues of a disk busy, and notes what it does. It is one
// goroutine, so that its stamps are the order of things.
type client struct {
	g      *rig.Geometry
	disk   *frontend.Disk
	daemon *rig.Daemon
	log    *logDevice
	rng    *rand.Rand
	seed   uint64
	h      *history
	// through says that the disk is in write-through mode: each answer is a
	// promise.
	through bool

	zones    []zoneLoad
	ops      [queues][depth]op
	flight   int
	draining bool // until nothing is in flight: then all zones are reset
	nextID   uint64
	answered int
	refused  int // for want of resources
}

// run has target requests answered, and waits for what is in flight then.
func (c *client) run(target int) error {
	c.zones = make([]zoneLoad, c.g.Zones())
	if c.through {
		if err := c.disk.Client.SetConfig(driver.WritebackOffset, []byte{0}); err != nil {
			return err
		}
	}
	free := [queues][]*frontend.Request{}
	for i := range queues {
		for tag := range depth {
			r := c.disk.Queue(i).Get()
			r.Tag = uint64(tag)
			free[i] = append(free[i], r)
		}
	}
	done := make([]*frontend.Request, depth)
	for c.answered < target || c.flight > 0 {
		moved := false
		for i := range queues {
			q := c.disk.Queue(i)
			for n := len(free[i]); n > 0 && c.answered < target && c.offer(i, free[i][n-1]); n = len(free[i]) {
				if err := q.Submit(free[i][n-1]); err != nil {
					return err
				}
				free[i] = free[i][:n-1]
				c.flight++
			}
			if err := q.Kick(); err != nil {
				return err
			}
			n, err := q.Poll(done)
			if err != nil {
				return err
			}
			for _, r := range done[:n] {
				if err := c.answer(&c.ops[i][r.Tag], r); err != nil {
					return err
				}
				free[i] = append(free[i], r)
			}
			moved = moved || n > 0
		}
		if !moved {
			if err := c.daemon.Gone(); err != nil {
				return err
			}
			time.Sleep(time.Millisecond) // whoever works wants a processor, too
		}
	}
	for i := range queues {
		for _, r := range free[i] {
			c.disk.Queue(i).Put(r)
		}
	}
	return nil
}

// offer makes r a request, and notes it. It returns false when there is nothing
// to be done just now.
func (c *client) offer(queue int, r *frontend.Request) bool {
	if c.draining {
		if c.flight > 0 {
			return false
		}
		c.draining = false
		c.send(queue, r, op{typ: driver.TypeZoneResetAll})
		for i := c.g.Conventional; i < len(c.zones); i++ {
			c.zones[i].busy = true
		}
		return true
	}
	for range 8 {
		if o, ok := c.choose(); ok {
			c.send(queue, r, o)
			return true
		}
	}
	return false
}

// choose picks a request that the zone it is for can take now.
func (c *client) choose() (o op, ok bool) {
	i := c.g.Conventional + c.rng.IntN(len(c.zones)-c.g.Conventional)
	if c.rng.IntN(3) > 0 { // some zones see more than others
		i = c.g.Conventional + (i-c.g.Conventional)%7
	}
	k := c.rng.IntN(1000)
	o.zone = i
	if c.g.Conventional > 0 && k >= 60 && k < 160 {
		o.zone = c.rng.IntN(c.g.Conventional)
	}
	z := &c.zones[o.zone]
	alone := z.flight == 0 && !z.busy
	n := min(c.g.Block<<c.rng.IntN(6), bufferBytes/sectorBytes)
	fits := !z.busy && !z.full && z.reserved+n <= c.g.Capacity(o.zone)
	switch {
	case k < 60:
		o.typ = driver.TypeFlush
		return o, true
	case o.zone < c.g.Conventional:
		n = min(n, c.g.Length(o.zone))
		at := c.rng.Uint64N((c.g.Length(o.zone)-n)/c.g.Block+1) * c.g.Block
		o.typ, o.w = driver.TypeOut, &write{at: at, n: n, ret: never}
		return o, alone
	case k == 999:
		c.draining = true
		return o, false
	case k >= 970:
		o.typ = driver.TypeZoneOpen
		return o, alone && !z.full
	case k >= 940:
		o.typ = driver.TypeZoneClose
		return o, alone && !z.full
	case k >= 920:
		o.typ = driver.TypeZoneFinish
		return o, alone && !z.full
	case k >= 900, !fits && alone:
		o.typ = driver.TypeZoneReset
		return o, alone
	case k >= 600 && alone:
		o.typ, o.w = driver.TypeOut, &write{at: z.reserved, n: n, ret: never}
		return o, fits
	}
	o.typ, o.w = driver.TypeZoneAppend, &write{at: nowhere, n: n, ret: never}
	return o, fits
}

// nowhere is the place of an append that is not answered.
const nowhere = ^uint64(0) >> 1

// send makes r carry o and notes that.
func (c *client) send(queue int, r *frontend.Request, o op) {
	o.call = c.h.tick()
	r.Type, r.Sector = o.typ, uint64(o.zone)*c.g.Zone
	r.SetLen(0)
	z := &c.zones[o.zone]
	lives := c.h.zones[o.zone]
	switch {
	case o.w != nil:
		c.nextID++
		o.w.id, o.w.call = c.nextID, o.call
		if o.typ == driver.TypeOut {
			r.Sector += o.w.at
			z.busy = true // requests of different queues overtake each other
		}
		r.SetLen(int(o.w.n * sectorBytes))
		rig.Fill(r.Data, c.seed, o.w.id)
		z.flight++
		z.reserved += o.w.n
		l := lives[len(lives)-1]
		l.writes = append(l.writes, o.w)
	case o.typ == driver.TypeZoneResetAll:
		for i := c.g.Conventional; i < len(c.zones); i++ {
			c.h.zones[i] = append(c.h.zones[i], newLife(o.call, never))
		}
	case o.typ == driver.TypeZoneReset:
		c.h.zones[o.zone] = append(lives, newLife(o.call, never))
		z.busy = true
	case o.typ == driver.TypeZoneFinish:
		lives[len(lives)-1].finishCall = o.call
		z.busy = true
	case o.typ != driver.TypeFlush:
		z.busy = true
	}
	c.ops[queue][r.Tag] = o
}

// answer notes an answer.
func (c *client) answer(o *op, r *frontend.Request) error {
	c.flight--
	c.answered++
	now := c.h.tick()
	z := &c.zones[o.zone]
	lives := c.h.zones[o.zone]
	l := lives[len(lives)-1]
	if r.Status != driver.StatusOK {
		return c.refusal(o, r, z, l)
	}
	switch {
	case o.w != nil:
		o.w.ret = now
		z.flight--
		if o.typ == driver.TypeZoneAppend {
			o.w.at = r.AppendSector - uint64(o.zone)*c.g.Zone
		} else {
			z.busy = false
		}
		if o.zone < c.g.Conventional {
			z.reserved = 0
		}
	case o.typ == driver.TypeFlush:
		return c.promise(o.call)
	case o.typ == driver.TypeZoneResetAll:
		for i := c.g.Conventional; i < len(c.zones); i++ {
			c.h.zones[i][len(c.h.zones[i])-1].resetRet = now
			c.zones[i] = zoneLoad{}
		}
	case o.typ == driver.TypeZoneReset:
		l.resetRet = now
		*z = zoneLoad{}
	case o.typ == driver.TypeZoneFinish:
		l.finishRet = now
		z.busy, z.full = false, true
	default:
		z.busy = false
	}
	if c.through {
		return c.promise(now + 1)
	}
	return nil
}

// refusal takes note of a request that was answered with an error.
func (c *client) refusal(o *op, r *frontend.Request, z *zoneLoad, l *life) error {
	resources := c.g.MaxOpen != 0 && r.Status == driver.StatusZoneOpenResource ||
		c.g.MaxActive != 0 && r.Status == driver.StatusZoneActiveResource
	switch {
	case o.w != nil && resources:
		for i, w := range l.writes {
			if w == o.w {
				l.writes = append(l.writes[:i], l.writes[i+1:]...)
				break
			}
		}
		z.flight--
		z.reserved -= o.w.n
		z.busy = false
		c.refused++
		return nil
	case o.typ == driver.TypeZoneOpen && (resources || r.Status == driver.StatusZoneInvalidCmd),
		o.typ == driver.TypeZoneClose && r.Status == driver.StatusZoneInvalidCmd:
		z.busy = false
		return nil
	}
	return fmt.Errorf("a %s for zone %d (%+v) was answered %s", driver.TypeString(o.typ), o.zone, *z, driver.StatusString(r.Status))
}

// promise marks in the log that what was answered before the stamp covers is
// durable.
func (c *client) promise(covers int) error {
	if err := c.log.mark(fmt.Sprintf("p%d", len(c.h.promises))); err != nil {
		return err
	}
	c.h.promises = append(c.h.promises, promise{covers, c.h.tick()})
	return nil
}
