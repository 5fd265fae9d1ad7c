package zonemodel

import (
	"encoding/binary"
	"hash/fnv"
	"hash/maphash"
	"slices"
)

// SectorBytes is the unit of all sector numbers.
const SectorBytes = 512

// A State is a zone's state, numbered as VIRTIO_BLK_ZS_* is.
type State uint8

// The zone states.
const (
	NotWP    State = 0 // conventional
	Empty    State = 1
	ImpOpen  State = 2
	ExpOpen  State = 3
	Closed   State = 4
	ReadOnly State = 13
	Full     State = 14
	Offline  State = 15
)

var stateNames = map[State]string{
	NotWP: "not-wp", Empty: "empty", ImpOpen: "imp-open", ExpOpen: "exp-open", Closed: "closed",
	ReadOnly: "read-only", Full: "full", Offline: "offline",
}

func (s State) String() string {
	if name, ok := stateNames[s]; ok {
		return name
	}
	return "unknown state"
}

// IsOpen says whether a zone in state s takes an open resource.
func (s State) IsOpen() bool { return s == ImpOpen || s == ExpOpen }

// IsActive says whether a zone in state s takes an active resource.
func (s State) IsActive() bool { return s.IsOpen() || s == Closed }

// A Status is how a request ends, numbered as VIRTIO_BLK_S_* is.
type Status byte

// The statuses.
const (
	OK             Status = 0
	IOErr          Status = 1
	Unsupp         Status = 2
	InvalidCmd     Status = 3
	UnalignedWP    Status = 4
	OpenResource   Status = 5
	ActiveResource Status = 6
)

var statusNames = [...]string{
	"OK", "IOERR", "UNSUPP", "ZONE_INVALID_CMD", "ZONE_UNALIGNED_WP", "ZONE_OPEN_RESOURCE", "ZONE_ACTIVE_RESOURCE",
}

func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return "unknown status"
}

// A Geometry is what a disk is made of. Limits of 0 are none.
type Geometry struct {
	CapacitySectors     uint64
	ZoneSectors         uint64 // of every zone but perhaps the last
	ZoneCapacitySectors uint64 // writable sectors of a sequential zone; 0: all of them
	ConventionalZones   int    // how many of the first zones are
	MaxOpen, MaxActive  uint32
	MaxAppendSectors    uint32
	BlockBytes          uint32 // logical block size, and write granularity
}

// A Model is a disk. Its exported fields may be set by who holds it.
type Model struct {
	Geometry
	ReadOnly bool // the disk, not a zone
	CanErase bool // it has SECURE_ERASE
	Zones    []Zone
	// Opened are the implicitly open zones, the oldest first.
	Opened []int
	// Prefer is the implicitly open zone to close when one has to be; where it is
	// none of them, the oldest is. Closed is what the last request has closed to
	// make room, -1 if nothing.
	Prefer, Closed int
}

// A Zone is one zone of a model. All numbers are sectors of the disk.
type Zone struct {
	Start, End   uint64
	Writable     uint64 // end of the capacity
	WP           uint64
	State        State
	Conventional bool

	data []byte // from Start on; what is not there is zeroes. Never changed in place.
	sum  uint64 // of what was written since the last reset, in order
}

// A Descriptor is what a report says of a zone.
type Descriptor struct {
	Start, Length, Capacity, WP uint64
	Conventional                bool
	State                       State
}

// New makes a disk whose sequential zones are empty.
func New(g Geometry) *Model {
	if g.ZoneCapacitySectors == 0 {
		g.ZoneCapacitySectors = g.ZoneSectors
	}
	m := &Model{Geometry: g, Prefer: -1, Closed: -1}
	for start := uint64(0); start < g.CapacitySectors; start += g.ZoneSectors {
		z := Zone{Start: start, End: min(start+g.ZoneSectors, g.CapacitySectors), WP: start, State: Empty}
		z.Writable = min(start+g.ZoneCapacitySectors, z.End)
		if len(m.Zones) < g.ConventionalZones {
			z.State, z.Writable, z.Conventional = NotWP, z.End, true
		}
		m.Zones = append(m.Zones, z)
	}
	return m
}

// Clone returns another disk that is in the same state.
func (m *Model) Clone() *Model {
	c := *m
	c.Zones = slices.Clone(m.Zones)
	c.Opened = slices.Clone(m.Opened)
	return &c
}

// Key is a number that disks of one geometry share when nobody can tell them
// apart but by which zone was opened first, within one process.
func (m *Model) Key() uint64 {
	h := fnv.New64a()
	var b [17]byte
	for i := range m.Zones {
		z := &m.Zones[i]
		b[0] = byte(z.State)
		binary.LittleEndian.PutUint64(b[1:], z.WP)
		binary.LittleEndian.PutUint64(b[9:], z.sum)
		_, _ = h.Write(b[:])
	}
	return h.Sum64()
}

// ZoneOf returns the zone that holds sector, which is on the disk.
func (m *Model) ZoneOf(sector uint64) (int, *Zone) {
	i := int(sector / m.ZoneSectors)
	return i, &m.Zones[i]
}

// Descriptor is what a report has to say of zone i. Where the specification
// leaves the write pointer undefined it is the zone's start, and the end of a
// full one.
func (m *Model) Descriptor(i int) Descriptor {
	z := &m.Zones[i]
	d := Descriptor{
		Start: z.Start, Length: z.End - z.Start, Capacity: z.Writable - z.Start, WP: z.WP,
		Conventional: z.Conventional, State: z.State,
	}
	switch {
	case z.Conventional, z.State == Offline:
		d.WP = z.Start
	case z.State == Full:
		d.WP = z.End
	}
	return d
}

// Report is the answer to a report from sector on with room for so many bytes:
// the number of the first zone, and how many there are.
func (m *Model) Report(sector, room uint64) (status Status, first, n int) {
	const header, descriptor = 64, 64
	if sector >= m.CapacitySectors || room < header {
		return InvalidCmd, 0, 0
	}
	first, _ = m.ZoneOf(sector)
	return OK, first, min(len(m.Zones)-first, int((room-header)/descriptor))
}

// Data is n bytes of the disk from sector on, whatever the zones' states.
func (m *Model) Data(sector, n uint64) []byte {
	data := make([]byte, n)
	for rest := data; len(rest) > 0; {
		_, z := m.ZoneOf(sector)
		from := (sector - z.Start) * SectorBytes
		part := min(uint64(len(rest)), (z.End-sector)*SectorBytes)
		if from < uint64(len(z.data)) {
			copy(rest[:part], z.data[from:])
		}
		rest, sector = rest[part:], z.End
	}
	return data
}

// Fill puts data into the zone at sector at, whatever its state.
func (z *Zone) Fill(at uint64, data []byte) {
	from := int(at-z.Start) * SectorBytes
	fresh := make([]byte, max(len(z.data), from+len(data)))
	copy(fresh, z.data)
	copy(fresh[from:], data)
	z.data = fresh
	z.sum = (z.sum^at)*0x9e3779b97f4a7c15 + maphash.Bytes(seed, data)
}

// seed is of maphash, which is assembly: a checksum in Go takes most of a test's time with
// the race detector.
var seed = maphash.MakeSeed()

// Erase makes the zone hold nothing but zeroes, whatever its state.
func (z *Zone) Erase() { z.data, z.sum = nil, 0 }

// TakeData makes the zone hold what another one of the same place holds.
func (z *Zone) TakeData(from *Zone) { z.data, z.sum = from.data, from.sum }
