package backend

import (
	"slices"
)

// A model is a zoned disk in memory, one request at a time, read off the
// specification ("Block Device / Device Operation") and not off the code that it
// is held against: every byte of the disk is there, states are counted when they
// are asked for, nothing is clever.
type model struct {
	g        Geometry
	readOnly bool
	zones    []modelZone
	data     []byte
	opened   []int // implicitly open zones, oldest first
}

type modelZone struct {
	start, end uint64 // sectors of the disk
	writable   uint64 // end of the capacity
	wp         uint64
	state      ZoneState
}

func newModel(g Geometry) *model {
	if err := g.Complete(); err != nil {
		panic(err)
	}
	m := &model{g: g, data: make([]byte, g.CapacitySectors*SectorSize)}
	for start := uint64(0); start < g.CapacitySectors; start += g.ZoneSectors {
		z := modelZone{start: start, end: min(start+g.ZoneSectors, g.CapacitySectors), wp: start, state: Empty}
		z.writable = min(start+g.ZoneCapacitySectors, z.end)
		if len(m.zones) < g.ConventionalZones {
			z.state, z.writable = NotWP, z.end
		}
		m.zones = append(m.zones, z)
	}
	return m
}

// do carries r out. For a read it returns what has to be read.
func (m *model) do(r *Request) (read []byte, at uint64, err error) {
	switch r.Op {
	case OpRead:
		read, err = m.read(r.Sector, r.Bytes)
	case OpWrite:
		err = m.write(r.Sector, bytesOfAll(r))
	case OpAppend:
		at, err = m.append(r.Sector, r.Bytes, r)
	case OpFlush:
	case OpOpen, OpClose, OpFinish, OpReset:
		err = m.manage(r.Op, r.Sector)
	case OpResetAll:
		if m.readOnly {
			return nil, 0, ErrReadOnly
		}
		for i, z := range m.zones {
			if z.state == ImpOpen || z.state == ExpOpen || z.state == Closed || z.state == Full {
				m.reset(i)
			}
		}
	default:
		err = ErrUnsupported
	}
	return read, at, err
}

func bytesOfAll(r *Request) []byte {
	data := make([]byte, 0, r.Bytes)
	for i := range r.Iov {
		data = append(data, bytesOf(&r.Iov[i])...)
	}
	return data
}

// sectorsOf counts a part of a sector as one.
func sectorsOf(bytes uint64) uint64 { return (bytes + SectorSize - 1) / SectorSize }

// inDisk says whether the range lies on the disk, without overflow.
func (m *model) inDisk(sector, bytes uint64) bool {
	return sector <= m.g.CapacitySectors && sectorsOf(bytes) <= m.g.CapacitySectors-sector
}

// whole says whether bytes are whole blocks.
func (m *model) whole(bytes uint64) bool { return bytes%uint64(m.g.BlockSize) == 0 }

func (m *model) wholeBlocks(sectors uint64) bool {
	return sectors*SectorSize%uint64(m.g.BlockSize) == 0
}

func (m *model) zoneOf(sector uint64) (int, *modelZone) {
	i := int(sector / m.g.ZoneSectors)
	return i, &m.zones[i]
}

func (m *model) read(sector, bytes uint64) ([]byte, error) {
	n := sectorsOf(bytes)
	if sector < m.g.CapacitySectors {
		// "All requests issued to a zone in the VIRTIO_BLK_ZS_OFFLINE state"
		if _, z := m.zoneOf(sector); z.state == Offline {
			return nil, ErrZoneInvalid
		}
	}
	if !m.inDisk(sector, bytes) {
		return nil, ErrRange
	}
	for i, z := range m.zones {
		touched := z.start < sector+n && sector < z.end || n == 0 && z.start <= sector && sector < z.end
		if !touched {
			continue
		}
		// "If a [...] VIRTIO_BLK_T_IN request [...] issued to a SWR zone has the
		// range that has sectors in more than one zone"
		if i >= m.g.ConventionalZones && (sector < z.start || sector+n > z.end) {
			return nil, ErrZoneInvalid
		}
		if z.state == Offline {
			return nil, ErrZoneInvalid
		}
	}
	if !m.wholeBlocks(sector) || !m.whole(bytes) {
		return nil, ErrRange
	}
	return m.data[sector*SectorSize:][:bytes], nil
}

func (m *model) write(sector uint64, data []byte) error {
	bytes := uint64(len(data))
	n := sectorsOf(bytes)
	switch {
	case m.readOnly:
		return ErrReadOnly
	case sector >= m.g.CapacitySectors:
		return ErrRange
	}
	i, z := m.zoneOf(sector)
	if i < m.g.ConventionalZones {
		last := int((sector + max(n, 1) - 1) / m.g.ZoneSectors)
		if last >= m.g.ConventionalZones {
			return ErrZoneInvalid
		}
		for _, z := range m.zones[i : last+1] {
			if z.state != NotWP {
				return ErrZoneInvalid
			}
		}
		if !m.wholeBlocks(sector) || !m.whole(bytes) {
			return ErrRange
		}
		copy(m.data[sector*SectorSize:], data)
		return nil
	}
	switch {
	case sector+n > z.end, z.state == ReadOnly, z.state == Full, z.state == Offline:
		return ErrZoneInvalid
	case !m.whole(bytes), sector != z.wp:
		return ErrUnalignedWP
	}
	return m.put(i, data)
}

func (m *model) append(sector, bytes uint64, r *Request) (uint64, error) {
	switch {
	case m.readOnly:
		return 0, ErrReadOnly
	case sector >= m.g.CapacitySectors:
		return 0, ErrZoneInvalid
	}
	i, z := m.zoneOf(sector)
	n := sectorsOf(bytes)
	switch {
	case i < m.g.ConventionalZones,
		sector != z.start,
		n > uint64(m.g.MaxAppendSectors),
		sector+n > z.end,
		z.state == ReadOnly, z.state == Full, z.state == Offline:
		return 0, ErrZoneInvalid
	case !m.whole(bytes):
		return 0, ErrUnalignedWP
	}
	at := z.wp
	return at, m.put(i, bytesOfAll(r))
}

// put writes at the write pointer of zone i, which is writable.
func (m *model) put(i int, data []byte) error {
	z := &m.zones[i]
	n := uint64(len(data)) / SectorSize
	if n > z.writable-z.wp {
		return ErrZoneInvalid
	}
	if n == 0 {
		return nil // only "a non-zero data size" opens a zone
	}
	if err := m.enter(i, ImpOpen); err != nil {
		return err
	}
	copy(m.data[z.wp*SectorSize:], data)
	if z.wp += n; z.wp == z.writable {
		return m.enter(i, Full)
	}
	return nil
}

func (m *model) manage(op Op, sector uint64) error {
	if sector >= m.g.CapacitySectors {
		return ErrZoneInvalid
	}
	i, z := m.zoneOf(sector)
	switch {
	case i < m.g.ConventionalZones, sector != z.start, z.state == ReadOnly, z.state == Offline:
		return ErrZoneInvalid
	case m.readOnly:
		// "the zone stays in" its state, or the transition cannot be performed.
		stays := map[Op]ZoneState{OpOpen: ExpOpen, OpClose: Closed, OpFinish: Full, OpReset: Empty}
		if z.state == stays[op] {
			return nil
		}
		return ErrZoneInvalid
	case op == OpOpen:
		if z.state == Full {
			return ErrZoneInvalid
		}
		return m.enter(i, ExpOpen)
	case op == OpClose:
		switch z.state {
		case Empty, Full:
			return ErrZoneInvalid
		case Closed:
			return nil
		}
		if z.wp == z.start {
			return m.enter(i, Empty)
		}
		return m.enter(i, Closed)
	case op == OpFinish:
		return m.enter(i, Full)
	}
	m.reset(i)
	return nil
}

func (m *model) reset(i int) {
	z := &m.zones[i]
	_ = m.enter(i, Empty)
	z.wp = z.start
	clear(m.data[z.start*SectorSize : z.end*SectorSize])
}

func isOpen(s ZoneState) bool { return s == ImpOpen || s == ExpOpen }

func (m *model) count(is func(ZoneState) bool) (n uint32) {
	for _, z := range m.zones {
		if is(z.state) {
			n++
		}
	}
	return n
}

// enter moves zone i to state to, or says which resource is missing.
func (m *model) enter(i int, to ZoneState) error {
	z := &m.zones[i]
	if to == ImpOpen && z.state == ExpOpen {
		return nil
	}
	isActive := func(s ZoneState) bool { return isOpen(s) || s == Closed }
	if isActive(to) && !isActive(z.state) && m.g.MaxActive != 0 && m.count(isActive) == m.g.MaxActive {
		return ErrActiveResource
	}
	if isOpen(to) && !isOpen(z.state) && m.g.MaxOpen != 0 && m.count(isOpen) == m.g.MaxOpen {
		// "the device MAY automatically transition zones in VIRTIO_BLK_ZS_IOPEN
		// state to VIRTIO_BLK_ZS_CLOSED state."
		if len(m.opened) == 0 {
			return ErrOpenResource
		}
		m.zones[m.opened[0]].state = Closed
		m.opened = m.opened[1:]
	}
	if z.state == ImpOpen && to != ImpOpen {
		m.opened = slices.DeleteFunc(m.opened, func(n int) bool { return n == i })
	}
	if to == ImpOpen && z.state != ImpOpen {
		m.opened = append(m.opened, i)
	}
	z.state = to
	return nil
}

// zone is what a report has to say of zone i.
func (m *model) zone(i int) Zone {
	z := &m.zones[i]
	want := Zone{
		Start: z.start, Length: z.end - z.start, Capacity: z.writable - z.start, WP: z.wp,
		Type: ZoneSeqWriteRequired, State: z.state,
	}
	switch {
	case i < m.g.ConventionalZones:
		want.Type, want.WP = ZoneConventional, z.start
	case z.state == Full:
		want.WP = z.end
	case z.state == Offline:
		want.WP = z.start
	}
	return want
}
