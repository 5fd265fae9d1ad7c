package zonemodel

import "slices"

// The types of requests, VIRTIO_BLK_T_*.
const (
	TypeIn           uint32 = 0
	TypeOut          uint32 = 1
	TypeFlush        uint32 = 4
	TypeSecureErase  uint32 = 14
	TypeZoneAppend   uint32 = 15
	TypeZoneOpen     uint32 = 18
	TypeZoneClose    uint32 = 20
	TypeZoneFinish   uint32 = 22
	TypeZoneReset    uint32 = 24
	TypeZoneResetAll uint32 = 26
)

// A Request is one that changes the disk or reads it.
type Request struct {
	Type   uint32
	Sector uint64
	Data   []byte // of a write or append
	Bytes  uint64 // of a read, or of the one range of a secure erase, which begins at Sector
}

// An Outcome is how a request ends.
type Outcome struct {
	Status Status
	Sector uint64 // where a successful append landed
	Data   []byte // what a successful read returns
}

// Do carries r out, from its beginning to its end.
func (m *Model) Do(r Request) Outcome {
	o := m.Admit(r)
	m.Settle()
	return o
}

// Admit carries r out, but that a zone that becomes full by it stays open, as it
// does until the write that fills it has ended.
func (m *Model) Admit(r Request) (o Outcome) {
	m.Closed = -1
	switch r.Type {
	case TypeIn:
		if o.Status = m.read(r.Sector, r.Bytes); o.Status == OK {
			o.Data = m.Data(r.Sector, r.Bytes)
		}
	case TypeOut:
		o.Status = m.write(r.Sector, r.Data)
	case TypeZoneAppend:
		at, status := m.append(r.Sector, r.Data)
		if o.Status = status; status == OK {
			o.Sector = at
		}
	case TypeSecureErase:
		o.Status = m.erase(r.Sector, r.Bytes/SectorBytes)
	case TypeFlush:
	case TypeZoneOpen, TypeZoneClose, TypeZoneFinish, TypeZoneReset:
		o.Status = m.manage(r.Type, r.Sector)
	case TypeZoneResetAll:
		if m.ReadOnly {
			return Outcome{Status: IOErr}
		}
		for i := range m.Zones {
			m.ResetOne(i)
		}
	default:
		o.Status = Unsupp
	}
	return o
}

// Settle makes zones full whose last sector is written.
func (m *Model) Settle() {
	for i := range m.Zones {
		m.SettleOne(i)
	}
}

// SettleOne is Settle for zone i. It says whether anything has changed.
func (m *Model) SettleOne(i int) bool {
	z := &m.Zones[i]
	if !z.State.IsActive() || z.WP != z.Writable {
		return false
	}
	m.enter(i, Full)
	return true
}

// ResetOne is what a reset of all zones does to zone i.
func (m *Model) ResetOne(i int) {
	if s := m.Zones[i].State; s.IsActive() || s == Full {
		m.reset(i)
	}
}

// sectorsOf counts a part of a sector as one.
func sectorsOf(bytes uint64) uint64 { return (bytes + SectorBytes - 1) / SectorBytes }

// inDisk says whether the range lies on the disk, without overflow.
func (m *Model) inDisk(sector, bytes uint64) bool {
	return sector <= m.CapacitySectors && sectorsOf(bytes) <= m.CapacitySectors-sector
}

// whole says whether bytes are whole blocks.
func (m *Model) whole(bytes uint64) bool { return bytes%uint64(m.BlockBytes) == 0 }

// wholeSectors says whether so many sectors are whole blocks.
func (m *Model) wholeSectors(n uint64) bool { return n%uint64(m.BlockBytes/SectorBytes) == 0 }

func (m *Model) read(sector, bytes uint64) Status {
	n := sectorsOf(bytes)
	if sector < m.CapacitySectors {
		// "All requests issued to a zone in the VIRTIO_BLK_ZS_OFFLINE state"
		if _, z := m.ZoneOf(sector); z.State == Offline {
			return InvalidCmd
		}
	}
	if !m.inDisk(sector, bytes) {
		return IOErr
	}
	for i := range m.Zones {
		z := &m.Zones[i]
		touched := z.Start < sector+n && sector < z.End || n == 0 && z.Start <= sector && sector < z.End
		if !touched {
			continue
		}
		// "If a [...] VIRTIO_BLK_T_IN request [...] issued to a SWR zone has the
		// range that has sectors in more than one zone"
		if !z.Conventional && (sector < z.Start || sector+n > z.End) {
			return InvalidCmd
		}
		if z.State == Offline {
			return InvalidCmd
		}
	}
	if !m.wholeSectors(sector) || !m.whole(bytes) {
		return IOErr
	}
	return OK
}

func (m *Model) write(sector uint64, data []byte) Status {
	bytes := uint64(len(data))
	n := sectorsOf(bytes)
	switch {
	case m.ReadOnly, sector >= m.CapacitySectors:
		return IOErr
	}
	i, z := m.ZoneOf(sector)
	if z.Conventional {
		return m.overwrite(sector, data)
	}
	switch {
	case sector+n > z.End, z.State == ReadOnly, z.State == Full, z.State == Offline:
		return InvalidCmd
	case !m.whole(bytes), sector != z.WP:
		return UnalignedWP
	}
	return m.put(i, data)
}

// overwrite writes from a sector of a conventional zone on.
func (m *Model) overwrite(sector uint64, data []byte) Status {
	n := max(sectorsOf(uint64(len(data))), 1)
	first := int(sector / m.ZoneSectors)
	last := int((sector + n - 1) / m.ZoneSectors)
	for i := first; i <= last; i++ {
		if i >= len(m.Zones) || !m.Zones[i].Conventional || sector+n > m.Zones[i].End && i == len(m.Zones)-1 || m.Zones[i].State != NotWP {
			return InvalidCmd
		}
	}
	if !m.wholeSectors(sector) || !m.whole(uint64(len(data))) {
		return IOErr
	}
	for i := first; i <= last && len(data) > 0; i++ {
		z := &m.Zones[i]
		part := min(uint64(len(data)), (z.End-sector)*SectorBytes)
		z.Fill(sector, data[:part])
		data, sector = data[part:], z.End
	}
	return OK
}

func (m *Model) append(sector uint64, data []byte) (uint64, Status) {
	switch {
	case m.ReadOnly:
		return 0, IOErr
	case sector >= m.CapacitySectors:
		return 0, InvalidCmd
	}
	i, z := m.ZoneOf(sector)
	n := sectorsOf(uint64(len(data)))
	switch {
	case z.Conventional,
		sector != z.Start,
		n > uint64(m.MaxAppendSectors),
		sector+n > z.End,
		z.State == ReadOnly, z.State == Full, z.State == Offline:
		return 0, InvalidCmd
	case !m.whole(uint64(len(data))):
		return 0, UnalignedWP
	}
	at := z.WP
	return at, m.put(i, data)
}

// put writes at the write pointer of zone i, which is writable.
func (m *Model) put(i int, data []byte) Status {
	z := &m.Zones[i]
	n := uint64(len(data)) / SectorBytes
	if n > z.Writable-z.WP {
		return InvalidCmd
	}
	if n == 0 {
		return OK // only "a non-zero data size" opens a zone
	}
	if s := m.enter(i, ImpOpen); s != OK {
		return s
	}
	z.Fill(z.WP, data)
	z.WP += n
	return OK
}

// wanted is the state that each request of zone management leads to, where it
// does not depend on what is written.
var wanted = map[uint32]State{
	TypeZoneOpen: ExpOpen, TypeZoneClose: Closed, TypeZoneFinish: Full, TypeZoneReset: Empty,
}

func (m *Model) manage(typ uint32, sector uint64) Status {
	if sector >= m.CapacitySectors {
		return InvalidCmd
	}
	i, z := m.ZoneOf(sector)
	switch {
	case z.Conventional, sector != z.Start, z.State == ReadOnly, z.State == Offline:
		return InvalidCmd
	case m.ReadOnly:
		// "the zone stays in" its state, or the transition cannot be performed.
		if z.State == wanted[typ] {
			return OK
		}
		return InvalidCmd
	case typ == TypeZoneOpen:
		if z.State == Full {
			return InvalidCmd
		}
		return m.enter(i, ExpOpen)
	case typ == TypeZoneClose:
		switch {
		case z.State == Empty, z.State == Full:
			return InvalidCmd
		case z.State == Closed:
			return OK
		case z.WP == z.Start:
			return m.enter(i, Empty)
		}
		return m.enter(i, Closed)
	case typ == TypeZoneFinish:
		return m.enter(i, Full)
	}
	m.reset(i)
	return OK
}

// erase resets whole zones, all or none: "in the same way it handles" RESET.
func (m *Model) erase(sector, n uint64) Status {
	switch {
	case !m.CanErase:
		return Unsupp
	case m.ReadOnly, sector > m.CapacitySectors, n > m.CapacitySectors-sector:
		return IOErr
	}
	var hit []int
	for i := range m.Zones {
		z := &m.Zones[i]
		if z.End <= sector || z.Start >= sector+n {
			continue
		}
		if z.Start < sector || z.End > sector+n || z.Conventional || z.State == ReadOnly || z.State == Offline {
			return InvalidCmd
		}
		hit = append(hit, i)
	}
	for _, i := range hit {
		m.reset(i)
	}
	return OK
}

// SetState puts zone i into a state from outside. What an offline zone held is
// gone when it comes back, and so is what any zone held that becomes empty.
func (m *Model) SetState(i int, to State) {
	if to == Empty {
		m.reset(i)
		return
	}
	m.enter(i, to)
}

func (m *Model) reset(i int) {
	z := &m.Zones[i]
	m.enter(i, Empty)
	z.WP = z.Start
	z.Erase()
}

// count is how many zones are in a state of that kind.
func (m *Model) count(is func(State) bool) (n uint32) {
	for i := range m.Zones {
		if is(m.Zones[i].State) {
			n++
		}
	}
	return n
}

// enter moves zone i to state to, or says which resource is missing.
func (m *Model) enter(i int, to State) Status {
	z := &m.Zones[i]
	if to == ImpOpen && z.State == ExpOpen {
		return OK
	}
	if to.IsActive() && !z.State.IsActive() && m.MaxActive != 0 && m.count(State.IsActive) == m.MaxActive {
		return ActiveResource
	}
	if to.IsOpen() && !z.State.IsOpen() && m.MaxOpen != 0 && m.count(State.IsOpen) == m.MaxOpen {
		// "the device MAY automatically transition zones in VIRTIO_BLK_ZS_IOPEN
		// state to VIRTIO_BLK_ZS_CLOSED state."
		if len(m.Opened) == 0 {
			return OpenResource
		}
		at := max(slices.Index(m.Opened, m.Prefer), 0)
		m.Closed = m.Opened[at]
		m.Zones[m.Closed].State = Closed
		m.Opened = slices.Delete(m.Opened, at, at+1)
	}
	if z.State == ImpOpen && to != ImpOpen {
		m.Opened = slices.DeleteFunc(m.Opened, func(n int) bool { return n == i })
	}
	if to == ImpOpen && z.State != ImpOpen {
		m.Opened = append(m.Opened, i)
	}
	z.State = to
	return OK
}
