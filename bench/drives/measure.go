package main

import (
	"fmt"
	"time"

	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

const sectorBytes = 512

// A load is what is measured: requests of 4 KiB, so many in flight, in turn into
// so many zones. Plain writes have one in flight in each zone: they say where they
// go, so a second one would have to know how the first one ended.
type load struct {
	appends         bool
	zones, inFlight int
}

func (l load) String() string {
	if l.appends {
		return "appends"
	}
	return "plain writes"
}

const (
	requestBytes = 4096
	mostInFlight = 32
)

// A target is a served disk.
type target struct {
	disk *frontend.Disk
	q    *frontend.Queue
	free []*frontend.Request
	next []uint64 // where the next plain write goes, for each zone
	done [mostInFlight]*frontend.Request
}

func dial(socket string) (*target, error) {
	c, err := frontend.Dial(socket)
	if err != nil {
		return nil, err
	}
	disk, err := frontend.Open(c, frontend.Options{Depth: mostInFlight + 1, QueueSize: 128, BufferBytes: requestBytes})
	if err != nil {
		return nil, err
	}
	t := &target{disk: disk, q: disk.Queue(0)}
	for range mostInFlight {
		r := t.q.Get()
		r.SetLen(requestBytes)
		t.free = append(t.free, r)
	}
	return t, nil
}

// measure empties the disk, keeps it busy with l for so long, and returns how many
// requests were answered a second. All that was answered must then be in the zones.
func (t *target) measure(l load, long time.Duration) (perSecond float64, err error) {
	if err := t.q.Zone(driver.TypeZoneResetAll, 0); err != nil {
		return 0, err
	}
	zones, err := t.q.ReportAll()
	if err != nil {
		return 0, err
	}
	if len(zones) < l.zones {
		return 0, fmt.Errorf("the drive has %d zones, and %d are to be written to", len(zones), l.zones)
	}
	t.next = t.next[:0]
	for _, z := range zones[:l.zones] {
		t.next = append(t.next, z.Start)
	}
	// The first tenth warms up: caches, helper threads, a translating emulator.
	answered, counted := 0, 0
	warm := time.Now().Add(long / 10)
	var began time.Time
	for i := range l.inFlight {
		r := t.free[i]
		r.Tag = uint64(i % l.zones)
		if err := t.send(l, r, zones); err != nil {
			return 0, err
		}
	}
	for now := time.Now(); ; now = time.Now() {
		if began.IsZero() && now.After(warm) {
			began, counted = now, answered
		}
		if !began.IsZero() && now.Sub(began) >= long {
			perSecond = float64(answered-counted) / now.Sub(began).Seconds()
			break
		}
		n, err := t.take()
		if err != nil {
			return 0, err
		}
		answered += n
		for _, r := range t.done[:n] {
			if err := t.send(l, r, zones); err != nil {
				return 0, err
			}
		}
		if err := t.q.Kick(); err != nil {
			return 0, err
		}
	}
	for t.q.InFlight() > 0 {
		n, err := t.take()
		if err != nil {
			return 0, err
		}
		answered += n
	}
	return perSecond, t.account(answered)
}

func (t *target) send(l load, r *frontend.Request, zones []driver.Zone) error {
	r.Type, r.Sector = driver.TypeZoneAppend, zones[r.Tag].Start
	if !l.appends {
		r.Type, r.Sector = driver.TypeOut, t.next[r.Tag]
		t.next[r.Tag] += requestBytes / sectorBytes
	}
	return t.q.Submit(r)
}

// take waits for answers, which have to be good.
func (t *target) take() (int, error) {
	if err := t.q.Kick(); err != nil {
		return 0, err
	}
	n, err := t.q.Wait(t.done[:])
	for _, r := range t.done[:n] {
		if r.Status != driver.StatusOK {
			return 0, frontend.StatusError{Type: r.Type, Sector: r.Sector, Status: r.Status}
		}
	}
	return n, err
}

// account looks whether the zones hold what was answered, and no more.
func (t *target) account(answered int) error {
	zones, err := t.q.ReportAll()
	if err != nil {
		return err
	}
	var sectors uint64
	for _, z := range zones {
		if z.Type != driver.ZoneTypeConv {
			sectors += z.WP - z.Start
		}
	}
	if want := uint64(answered) * requestBytes / sectorBytes; sectors != want {
		return fmt.Errorf("%d requests were answered, %d sectors, and the zones hold %d", answered, want, sectors)
	}
	return nil
}
