package disktest

import (
	"errors"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/iovec"
	"github.com/zvhost/zvhost/internal/zonemodel"
)

// A Model is what a disk of this package is held against (internal/zonemodel),
// with this package's words for it.
type Model struct {
	*zonemodel.Model
	Geom zone.Geometry
}

// A ModelZone is one zone of a Model.
type ModelZone = zonemodel.Zone

// NewModel returns a model with all zones empty. A geometry that cannot be is a panic.
func NewModel(g zone.Geometry) *Model {
	if err := g.Complete(); err != nil {
		panic(err)
	}
	return &Model{zonemodel.New(zonemodel.Geometry{
		CapacitySectors: g.CapacitySectors, ZoneSectors: g.ZoneSectors, ZoneCapacitySectors: g.ZoneCapacitySectors,
		ConventionalZones: g.ConventionalZones, MaxOpen: g.MaxOpen, MaxActive: g.MaxActive,
		MaxAppendSectors: g.MaxAppendSectors, BlockBytes: g.BlockSize,
	}), g}
}

// CloneModel returns a copy that shares nothing with m.
func (m *Model) CloneModel() *Model { return &Model{m.Clone(), m.Geom} }

// set puts zone i out of service.
func (m *Model) set(i int, s zone.State) { m.Zones[i].State = zonemodel.State(s) }

var modelTypes = [disk.NumOps]uint32{
	disk.OpRead: zonemodel.TypeIn, disk.OpWrite: zonemodel.TypeOut, disk.OpFlush: zonemodel.TypeFlush, disk.OpAppend: zonemodel.TypeZoneAppend,
	disk.OpOpen: zonemodel.TypeZoneOpen, disk.OpClose: zonemodel.TypeZoneClose, disk.OpFinish: zonemodel.TypeZoneFinish,
	disk.OpReset: zonemodel.TypeZoneReset, disk.OpResetAll: zonemodel.TypeZoneResetAll,
}

var modelErrors = map[zonemodel.Status]error{
	zonemodel.OK: nil, zonemodel.IOErr: disk.ErrRange, zonemodel.Unsupp: disk.ErrUnsupported, zonemodel.InvalidCmd: zone.ErrInvalid,
	zonemodel.UnalignedWP: zone.ErrUnaligned, zonemodel.OpenResource: zone.ErrOpenLimit, zonemodel.ActiveResource: zone.ErrActiveLimit,
}

// Apply carries r out: it returns what a read has to return, the sector of an append, and
// the error that a disk has to return.
func (m *Model) Apply(r *disk.Request) (read []byte, at uint64, err error) {
	q := zonemodel.Request{Type: ^uint32(0), Sector: r.Sector, Bytes: r.Bytes}
	if r.Op < disk.NumOps && (r.Op == disk.OpRead || modelTypes[r.Op] != 0) {
		q.Type = modelTypes[r.Op]
	}
	if r.Op == disk.OpWrite || r.Op == disk.OpAppend {
		q.Data = BytesOf(r)
	}
	o := m.Do(q)
	err = modelErrors[o.Status]
	if errors.Is(err, disk.ErrRange) && m.ReadOnly && r.Op != disk.OpRead {
		err = disk.ErrReadOnly
	}
	return o.Data, o.Sector, err
}

// BytesOf returns a copy of the data of r.
func BytesOf(r *disk.Request) []byte {
	data := make([]byte, 0, r.Bytes)
	for i := range r.Iov {
		data = append(data, iovec.Bytes(r.Iov[i])...)
	}
	return data
}

// Report returns what a zone report has to say of zone i.
func (m *Model) Report(i int) zone.Descriptor {
	d := m.Descriptor(i)
	z := zone.Descriptor{Start: d.Start, Length: d.Length, Capacity: d.Capacity, WP: d.WP, Type: zone.SequentialWriteRequired, State: zone.State(d.State)}
	if d.Conventional {
		z.Type = zone.Conventional
	}
	return z
}
