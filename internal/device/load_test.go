package device

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// loadZones is 4 zones of 1 MiB.
var loadZones = zone.Geometry{CapacitySectors: 8192, ZoneSectors: 2048}

const (
	loadQueues = 3
	loadBytes  = 4096
	loadCount  = 300 // appends of each queue: 900 of 1024 blocks
)

// A loader appends to all zones on one queue, and remembers what it wrote where.
type loader struct {
	g      *guest
	queue  int
	landed map[uint64]uint64 // sector -> seed
	sent   uint64
	// excused says whether an append may fail; nil: none may.
	excused func(*frontend.Request) bool
}

// run appends until n are answered. between is called after each batch.
func (l *loader) run(n int, between func() error) error {
	q := l.g.Queue(l.queue)
	for answered := 0; answered < n; {
		if err := l.send(n - answered - q.InFlight()); err != nil {
			return err
		}
		if err := between(); err != nil {
			return err
		}
		k, err := l.take()
		if err != nil {
			return err
		}
		answered += k
	}
	return nil
}

// send sends appends, at most n and as many as the queue takes.
func (l *loader) send(n int) error {
	q := l.g.Queue(l.queue)
	for range n {
		r := q.Get()
		if r == nil {
			break
		}
		l.sent++
		r.Tag = l.sent<<8 | uint64(l.queue)
		r.Type, r.Sector = driver.TypeZoneAppend, l.sent%4*2048
		r.SetLen(loadBytes)
		copy(r.Data, pattern(loadBytes, r.Tag))
		if err := q.Submit(r); err != nil {
			q.Put(r)
			if errors.Is(err, driver.ErrFull) {
				break
			}
			return err
		}
	}
	return q.Kick()
}

// take waits for answers and takes those that there are.
func (l *loader) take() (n int, err error) {
	var done [16]*frontend.Request
	q := l.g.Queue(l.queue)
	n, err = q.Wait(done[:])
	for _, r := range done[:n] {
		switch _, twice := l.landed[r.AppendSector]; {
		case r.Status != driver.StatusOK && l.excused != nil && l.excused(r):
		case r.Status != driver.StatusOK:
			return n, fmt.Errorf("append: %s", driver.StatusString(r.Status))
		case twice:
			return n, fmt.Errorf("two appends landed at sector %d", r.AppendSector)
		default:
			l.landed[r.AppendSector] = r.Tag
		}
		q.Put(r)
	}
	return n, err
}

// verify reads everything back, and checks that nobody overlaps.
func verify(g *guest, loaders []*loader, appends int) {
	t := g.r.t
	t.Helper()
	all, buf := map[uint64]uint64{}, make([]byte, loadBytes)
	for _, l := range loaders {
		for sector, seed := range l.landed {
			if _, twice := all[sector]; twice {
				t.Errorf("two appends landed at sector %d", sector)
			}
			all[sector] = seed
			if err := g.Queue(0).Read(buf, sector); err != nil || !bytes.Equal(buf, pattern(loadBytes, seed)) {
				t.Fatalf("sector %d does not have what was appended there, %v", sector, err)
			}
		}
	}
	if len(all) != appends {
		t.Errorf("%d appends landed, want %d", len(all), appends)
	}
	zones, err := g.Queue(0).Report(0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	written := uint64(0)
	for _, z := range zones {
		written += min(z.WP-z.Start, z.Capacity)
	}
	if want := uint64(appends) * loadBytes / disk.SectorSize; written != want {
		t.Errorf("the write pointers cover %d sectors, want %d", written, want)
	}
}

// Several queues append to the same zones at once.
func TestQueuesAppendTogether(t *testing.T) {
	for name, o := range rings {
		t.Run(name, func(t *testing.T) {
			r := zonedRig(t, loadZones, loadQueues)
			n := loadQueues
			if o.Without&(1<<30) != 0 {
				n = 1 // how many there are is not known without protocol features
			}
			o.Queues, o.BufferBytes, o.QueueSize = n, loadBytes, 64
			if o.Packed {
				o.QueueSize = 77
			}
			g := r.connect(o)
			loaders := make([]*loader, n)
			var wg sync.WaitGroup
			for i := range loaders {
				l := &loader{g: g, queue: i, landed: map[uint64]uint64{}}
				loaders[i] = l
				wg.Go(func() {
					if err := l.run(loadCount, func() error { return nil }); err != nil {
						t.Errorf("queue %d: %v", i, err)
					}
				})
			}
			wg.Wait()
			verify(g, loaders, n*loadCount)
			g.leave()
		})
	}
}

// Stopping and starting a queue, other descriptors, other memory, another cache
// mode: nothing of it loses or doubles a request.
func TestChangesUnderLoad(t *testing.T) {
	for name, change := range map[string]func(*guest, *frontend.Queue) error{
		"stop and start": func(g *guest, q *frontend.Queue) error {
			base, err := q.Stop()
			if err != nil {
				return err
			}
			// All that was taken is answered.
			answered := base >> 16 // in a packed ring
			if !g.Packed() {
				answered = uint32(q.Ring().DeviceIdx())
			}
			if answered != base&0xffff {
				return fmt.Errorf("stopped at %#x with %#x answered", base, answered)
			}
			return q.Start(base)
		},
		"call": func(g *guest, q *frontend.Queue) error {
			if err := g.Client.SetVringCall(0, -1); err != nil {
				return err
			}
			return g.Client.SetVringCall(0, q.CallFD())
		},
		"kick": func(g *guest, q *frontend.Queue) error { return g.Client.SetVringKick(0, q.KickFD()) },
		"enable": func(g *guest, _ *frontend.Queue) error {
			return errors.Join(g.Client.SetVringEnable(0, false), g.Client.SetVringEnable(0, true))
		},
		"memory": func(g *guest, _ *frontend.Queue) error { return g.Client.SetMemTable(g.Memory.Region) },
		"cache mode": func(g *guest, _ *frontend.Queue) error {
			return errors.Join(g.Client.SetConfig(driver.WritebackOffset, []byte{0}), g.Client.SetConfig(driver.WritebackOffset, []byte{1}))
		},
	} {
		for kind, o := range map[string]frontend.Options{
			"": {}, " without event index": {Without: driver.FeatureEventIdx},
			" packed": {Packed: true, QueueSize: 100}, " packed without event index": {Packed: true, Without: driver.FeatureEventIdx},
		} {
			t.Run(name+kind, func(t *testing.T) {
				r := zonedRig(t, loadZones, 1)
				o.BufferBytes = loadBytes
				g := r.connect(o)
				l := &loader{g: g, landed: map[uint64]uint64{}}
				if err := l.run(loadCount, func() error { return change(g, g.Queue(0)) }); err != nil {
					t.Fatalf("%v\n%s", err, r.book)
				}
				verify(g, []*loader{l}, loadCount)
				g.leave()
			})
		}
	}
}
