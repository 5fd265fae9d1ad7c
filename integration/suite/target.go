package suite

import (
	"errors"
	"fmt"

	"github.com/zvhost/zvhost/internal/zonemodel"
	"github.com/zvhost/zvhost/virtio/blkclient"
	"github.com/zvhost/zvhost/virtio/driver"
)

// A TB is what the suite needs of a test or benchmark.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// A Setup is a disk that the suite asks for; without a zone size, whatever there
// is, with as many of the queues.
type Setup struct {
	zonemodel.Geometry
	Queues int
	// ReadOnly asks for a read-only disk that has seen use.
	ReadOnly bool
	// Without are features not to take although they are offered, see
	// blkclient.Options.
	Without uint64
	Packed  bool // with packed rings
}

// A Target serves a disk like s. A target that cannot make disks serves what it
// has, and the suite looks whether it is that.
type Target func(s Setup) (*Served, error)

// Served is a disk that is served. It may have been used before.
type Served struct {
	// Open opens the disk for one front-end after the other.
	Open func(o blkclient.Options) (*blkclient.Disk, error)
	// Serial is what the disk has to answer to GET_ID; empty where nobody knows.
	Serial string
	// SetState puts a zone where no guest can put it, read-only or offline, and
	// back: to empty, or a conventional one to not-wp. A target without it has the
	// cases that need it counted as left out.
	SetState func(zone int, to zonemodel.State) error
	// Zones is the zone table by another way than the disk's reports; nil where
	// there is none.
	Zones func() ([]zonemodel.Descriptor, error)
	// Sample has the data of a zone looked at only where something may have
	// changed or must not have: around its ends, the end of its capacity, its write
	// pointer, and where requests begin and end. It is for large zones and slow
	// disks; nothing else is less.
	Sample bool
	// OneIn has the table send only one in so many of its reads, writes and
	// appends, others in each state; 0 and 1 are all.
	OneIn int
	// tamper changes answers on their way, for tests of the suite itself.
	tamper func(*Op)
	// Close ends it, and looks whether what is left behind is whole.
	Close func() error
}

// A Session is a disk in use, and the model that it is held against.
type Session struct {
	Model  *zonemodel.Model
	Queues int // in use
	// Cases counts requests, Batches what they came in.
	Cases, Batches int
	// Widest is the most that was searched for one batch, in states of the model.
	Widest int
	// Patient has the data of a zone looked at after a request that was refused
	// only when [Session.Verify] is called, or when the zone changes.
	Patient bool

	served   *Served
	disk     *blkclient.Disk
	buffer   int              // bytes that a request may have
	fills    uint64           // of data, so that no two are alike
	suspects map[int][]uint64 // zones whose data is to be looked at, and places there
	zones    []driver.Zone
	id       string
}

const (
	depth = 8 // requests that a queue has
	// maxBuffer bounds a request's buffer, so that large zones do not ask for
	// more memory than there is.
	maxBuffer = 4 << 20
)

// Open begins to use a disk: it resets all its zones, finds out what it is like,
// and looks whether that is what is wanted.
func Open(served *Served, want Setup) (*Session, error) {
	s := &Session{served: served, suspects: make(map[int][]uint64)}
	probe, err := served.Open(blkclient.Options{Without: want.Without, Packed: want.Packed})
	if err != nil {
		return nil, err
	}
	m, err := look(served, probe)
	queues := min(max(1, want.Queues), probe.Queues)
	if err = errors.Join(err, probe.Close()); err != nil {
		return nil, err
	}
	s.Model = m
	if want.ZoneSectors != 0 {
		if m.ReadOnly != want.ReadOnly {
			return nil, fmt.Errorf("the disk is read-only: %t, not %t", m.ReadOnly, want.ReadOnly)
		}
		if queues != max(1, want.Queues) {
			return nil, fmt.Errorf("the disk has %d queues, not %d", queues, want.Queues)
		}
		if err := differs(m, zonemodel.New(want.Geometry)); err != nil {
			return nil, err
		}
	}
	room := (m.ZoneSectors+2*uint64(m.BlockBytes)/zonemodel.SectorBytes)*zonemodel.SectorBytes + driver.ReportHeaderBytes
	room = max(room, driver.ReportHeaderBytes+uint64(len(m.Zones)+1)*driver.ZoneDescriptorBytes)
	s.buffer = int(min(room, maxBuffer)+4095) &^ 4095
	s.disk, err = served.Open(blkclient.Options{
		Queues: queues, QueueSize: 512, BufferBytes: s.buffer, Depth: depth, Without: want.Without, Packed: want.Packed,
		// Many vectors, but not more than a disk takes.
		SegmentBytes: max(4096, (s.buffer/48+4095)&^4095),
	})
	if err != nil {
		return nil, err
	}
	s.Queues = queues
	s.Model.CanErase = s.disk.Features&driver.BlkSecureErase != 0
	if err := s.begin(); err != nil {
		return nil, errors.Join(err, s.disk.Close())
	}
	return s, nil
}

// look resets all zones of a disk that is not read-only, takes those back into service that it can, and
// makes a model of what the disk says of itself.
func look(served *Served, d *blkclient.Disk) (*zonemodel.Model, error) {
	c := d.Config
	if d.Features&driver.BlkZoned == 0 || c.ZoneSectors == 0 {
		return nil, errors.New("the disk is not zoned")
	}
	readOnly := d.Features&driver.BlkRO != 0
	if !readOnly {
		if err := d.Queue(0).Zone(driver.TypeZoneResetAll, 0); err != nil {
			return nil, err
		}
		if err := restoreAll(served, d); err != nil {
			return nil, err
		}
	}
	zones, err := d.Queue(0).ReportAll()
	if err != nil {
		return nil, err
	}
	g := zonemodel.Geometry{
		CapacitySectors: c.Capacity, ZoneSectors: uint64(c.ZoneSectors), MaxOpen: c.MaxOpenZones, MaxActive: c.MaxActiveZones,
		MaxAppendSectors: c.MaxAppendSectors, BlockBytes: c.WriteGranularity,
	}
	for _, z := range zones {
		if z.Type == driver.ZoneTypeConv {
			g.ConventionalZones++
		} else {
			g.ZoneCapacitySectors = max(g.ZoneCapacitySectors, z.Capacity)
		}
	}
	m := zonemodel.New(g)
	m.ReadOnly = readOnly
	if len(zones) != len(m.Zones) {
		return nil, fmt.Errorf("%d zones are reported, but %d fit the disk", len(zones), len(m.Zones))
	}
	for i, z := range zones {
		mz := &m.Zones[i]
		mz.Conventional, mz.State, mz.WP = z.Type == driver.ZoneTypeConv, zonemodel.State(z.State), z.WP
		mz.Writable = mz.Start + z.Capacity
		switch {
		case z.Start != mz.Start || mz.Writable > mz.End:
			return nil, fmt.Errorf("zone %d is reported as %+v", i, z)
		case readOnly, mz.State == zonemodel.ReadOnly || mz.State == zonemodel.Offline:
		case mz.Conventional && mz.State != zonemodel.NotWP, !mz.Conventional && (mz.State != zonemodel.Empty || mz.WP != mz.Start):
			return nil, fmt.Errorf("after a reset of all zones, zone %d is %v with its write pointer at %d", i, mz.State, mz.WP)
		}
	}
	return m, nil
}

// restoreAll takes zones back into service that a run before has left out of it.
func restoreAll(served *Served, d *blkclient.Disk) error {
	zones, err := d.Queue(0).ReportAll()
	if err != nil || served.SetState == nil {
		return err
	}
	for i, z := range zones {
		to := zonemodel.Empty
		if z.Type == driver.ZoneTypeConv {
			to = zonemodel.NotWP
		}
		if z.State == driver.ZoneReadOnly || z.State == driver.ZoneOffline {
			if err := served.SetState(i, to); err != nil {
				return err
			}
		}
	}
	return nil
}

// differs says in what a disk is not the one that was wanted.
func differs(m, want *zonemodel.Model) error {
	a, b := m.Geometry, want.Geometry
	a.ZoneCapacitySectors, b.ZoneCapacitySectors = 0, 0 // the zones tell
	if a != b || len(m.Zones) != len(want.Zones) {
		return fmt.Errorf("the disk is %+v, not %+v", m.Geometry, want.Geometry)
	}
	for i := range m.Zones {
		if got, want := m.Zones[i], want.Zones[i]; got.Writable != want.Writable || got.Conventional != want.Conventional {
			return fmt.Errorf("zone %d is %+v, not %+v", i, got, want)
		}
	}
	return nil
}

// begin reads what zones hold that no reset empties, and makes sure that the
// others hold nothing.
func (s *Session) begin() (err error) {
	if s.id, err = s.disk.Queue(0).ID(); err != nil {
		return err
	}
	if want := s.served.Serial; want != "" && s.id != want {
		return fmt.Errorf("the disk's serial is %q, not %q", s.id, want)
	}
	for i := range s.Model.Zones {
		z := &s.Model.Zones[i]
		if z.State == zonemodel.Offline || z.State == zonemodel.Empty {
			continue
		}
		all := beginning(z)
		if err := s.readZone(i, all); err != nil {
			return err
		}
		z.Fill(z.Start, all[0].data)
	}
	for i := range s.Model.Zones {
		s.suspects[i] = s.places(nil, i)
	}
	return errors.Join(s.Verify(), s.Compare())
}

// Close leaves the disk.
func (s *Session) Close() error { return errors.Join(s.disk.Close(), s.served.Close()) }
