package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

const (
	sectorBytes = 512
	block       = 8 // sectors that writes are multiples of
)

// A write is one that was sent.
type write struct {
	id, sector, sectors uint64
	answered            bool
}

// A zone is what the load knows of a zone.
type zone struct {
	start, capacity uint64
	writes          []*write // since the last reset
	reserved        uint64   // sectors of them
	flight          int
	alone           bool // what is in flight wants to be
	resetting       bool // a reset is in flight
	refused         int  // requests that ended with a status that was allowed
	written         int  // writes and appends that were answered with OK, ever
}

// A load keeps the queues of a disk busy, and remembers what was answered.
type load struct {
	disk  *frontend.Disk
	rng   *rand.Rand
	zones []*zone // the sequential ones
	ops   [queues][depth]op
	free  [queues][]*frontend.Request
	id    uint64
	// answers counts them, flight what is to be answered.
	answers, flight int
	seen            [256]int // how often each status came up
	refused         int
	// allow says which statuses may come up for a zone besides OK.
	allow func(z *zone, status byte) bool
}

type op struct {
	z   *zone
	w   *write
	typ uint32
}

// newLoad resets all zones of a disk.
func newLoad(disk *frontend.Disk, rng *rand.Rand, id uint64) (*load, error) {
	zones, err := sequential(disk)
	if err != nil {
		return nil, err
	}
	l := &load{disk: disk, rng: rng, id: id}
	for _, z := range zones {
		l.zones = append(l.zones, &zone{start: z.Start, capacity: z.Capacity})
	}
	for i := range queues {
		for tag := range uint64(depth) {
			r := disk.Queue(i).Get()
			r.Tag = tag
			l.free[i] = append(l.free[i], r)
		}
	}
	l.allow = func(_ *zone, status byte) bool {
		return status == driver.StatusZoneOpenResource || status == driver.StatusZoneActiveResource
	}
	return l, nil
}

// sequential resets all zones of a disk, and returns those that it has reset.
func sequential(disk *frontend.Disk) ([]driver.Zone, error) {
	if err := disk.Queue(0).Zone(driver.TypeZoneResetAll, 0); err != nil {
		return nil, err
	}
	zones, err := disk.Queue(0).ReportAll()
	return slices.DeleteFunc(zones, func(z driver.Zone) bool { return z.Type == driver.ZoneTypeConv }), err
}

// run has n requests more answered, and leaves others in flight.
func (l *load) run(n int) error {
	for target, idle := l.answers+n, 0; l.answers < target; idle++ {
		for i := range queues {
			for len(l.free[i]) > 0 && l.offer(i) {
			}
			if err := l.disk.Queue(i).Kick(); err != nil {
				return err
			}
		}
		moved, err := l.collect()
		if err != nil {
			return err
		}
		if moved {
			idle = 0
			continue
		}
		if idle > 30_000 {
			return fmt.Errorf("%d requests are not answered", l.flight)
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// drain waits for what is in flight.
func (l *load) drain() error {
	for idle := 0; l.flight > 0; idle++ {
		if _, err := l.collect(); err != nil {
			return err
		}
		if idle > 30_000 {
			return fmt.Errorf("%d requests are not answered", l.flight)
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// offer sends a request on queue i, if there is something to be done.
func (l *load) offer(i int) bool {
	z := l.zones[l.rng.IntN(len(l.zones))]
	n := min(block<<l.rng.IntN(5), bufferBytes/sectorBytes)
	o := op{z: z, typ: driver.TypeZoneAppend}
	fits := z.reserved+uint64(n) <= z.capacity
	switch {
	case z.alone, !fits && z.flight > 0:
		return false
	case z.flight == 0 && (!fits || l.rng.IntN(40) == 0):
		o.typ, z.alone, z.resetting = driver.TypeZoneReset, true, true
	case z.flight == 0 && l.rng.IntN(3) == 0:
		o.typ, z.alone = driver.TypeOut, true
		fallthrough
	default:
		l.id++
		o.w = &write{id: l.id, sector: z.start + z.reserved, sectors: uint64(n)}
		z.writes, z.reserved = append(z.writes, o.w), z.reserved+uint64(n)
	}
	last := len(l.free[i]) - 1
	r := l.free[i][last]
	r.Type, r.Sector = o.typ, z.start
	r.SetLen(0)
	if o.w != nil {
		r.SetLen(int(o.w.sectors * sectorBytes))
		fill(r.Data, o.w.id)
	}
	if o.typ == driver.TypeOut {
		r.Sector = o.w.sector
	}
	if err := l.disk.Queue(i).Submit(r); err != nil {
		panic(err) // the ring holds depth requests
	}
	l.free[i] = l.free[i][:last]
	l.ops[i][r.Tag] = o
	z.flight++
	l.flight++
	return true
}

// collect takes what was answered.
func (l *load) collect() (moved bool, err error) {
	var done [depth]*frontend.Request
	for i := range queues {
		n, err := l.disk.Queue(i).Poll(done[:])
		if err != nil {
			return moved, err
		}
		for _, r := range done[:n] {
			moved = true
			l.free[i] = append(l.free[i], r)
			if err := l.answer(l.ops[i][r.Tag], r); err != nil {
				return moved, err
			}
		}
	}
	return moved, nil
}

func (l *load) answer(o op, r *frontend.Request) error {
	z := o.z
	l.flight--
	l.answers++
	z.flight--
	l.seen[r.Status]++
	if o.typ != driver.TypeZoneAppend {
		z.alone = false
	}
	switch {
	case r.Status != driver.StatusOK && !l.allow(z, r.Status):
		return fmt.Errorf("a %s for the zone at sector %d was answered %s", driver.TypeString(o.typ), z.start, driver.StatusString(r.Status))
	case r.Status != driver.StatusOK:
		z.refused++
		l.refused++
		z.resetting = false
		if o.w != nil { // it may stand there all the same, or in part
			z.writes = slices.DeleteFunc(z.writes, func(w *write) bool { return w == o.w })
			z.reserved -= o.w.sectors
		}
	case o.typ == driver.TypeZoneReset:
		z.writes, z.reserved, z.resetting = nil, 0, false
	default:
		o.w.answered = true
		z.written++
		if o.typ == driver.TypeZoneAppend {
			o.w.sector = r.AppendSector
		}
	}
	return nil
}

// verify looks whether what was answered is there, on a disk whose zones are as
// reported.
func (l *load) verify(disk *frontend.Disk, zones []driver.Zone, readable func(*zone) bool) (writes int, err error) {
	at := make(map[uint64]driver.Zone)
	for _, z := range zones {
		at[z.Start] = z
	}
	got, want := make([]byte, bufferBytes), make([]byte, bufferBytes)
	for _, z := range l.zones {
		now := at[z.start]
		if z.resetting && now.State == driver.ZoneEmpty || readable != nil && !readable(z) {
			continue
		}
		for _, w := range z.writes {
			if !w.answered {
				continue
			}
			n := w.sectors * sectorBytes
			if pointed(now.State) && w.sector+w.sectors > now.WP {
				return writes, fmt.Errorf("write %d was answered, ends at sector %d, and the write pointer is at %d", w.id, w.sector+w.sectors, now.WP)
			}
			if err := disk.Queue(0).Read(got[:n], w.sector); err != nil {
				return writes, err
			}
			fill(want[:n], w.id)
			if string(got[:n]) != string(want[:n]) {
				return writes, fmt.Errorf("write %d was answered, and does not stand at sector %d (zone %+v)", w.id, w.sector, now)
			}
			writes++
		}
	}
	return writes, nil
}

// fill writes the data of a request: each sector says which one it is of which.
func fill(b []byte, id uint64) {
	for i := 0; i < len(b); i += 16 {
		binary.LittleEndian.PutUint64(b[i:], id)
		binary.LittleEndian.PutUint64(b[i+8:], uint64(i/sectorBytes))
	}
}
