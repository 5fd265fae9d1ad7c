package zonemodel

import (
	"bytes"
	"testing"
)

// The model has no implementation to be held against, so a few lives of it are
// written down.
func TestModel(t *testing.T) {
	m := New(Geometry{
		CapacitySectors: 3*16 + 8, ZoneSectors: 16, ZoneCapacitySectors: 12, ConventionalZones: 1,
		MaxOpen: 1, MaxActive: 2, MaxAppendSectors: 8, BlockBytes: 512,
	})
	data := func(n int) []byte { return bytes.Repeat([]byte{7}, n*SectorBytes) }
	for i, c := range []struct {
		r      Request
		status Status
		sector uint64
		zone   int
		state  State
		wp     uint64
	}{
		{Request{Type: TypeOut, Sector: 3, Data: data(13)}, OK, 0, 0, NotWP, 0},
		{Request{Type: TypeOut, Sector: 3, Data: data(14)}, InvalidCmd, 0, 0, NotWP, 0},
		{Request{Type: TypeZoneAppend, Sector: 16, Data: data(8)}, OK, 16, 1, ImpOpen, 24},
		{Request{Type: TypeZoneAppend, Sector: 16, Data: data(5)}, InvalidCmd, 0, 1, ImpOpen, 24},
		{Request{Type: TypeZoneAppend, Sector: 16, Data: data(9)}, InvalidCmd, 0, 1, ImpOpen, 24},
		{Request{Type: TypeOut, Sector: 25, Data: data(1)}, UnalignedWP, 0, 1, ImpOpen, 24},
		{Request{Type: TypeZoneAppend, Sector: 16, Data: data(4)}, OK, 24, 1, Full, 32},
		{Request{Type: TypeZoneOpen, Sector: 32}, OK, 0, 2, ExpOpen, 32},
		{Request{Type: TypeZoneAppend, Sector: 48, Data: data(1)}, OpenResource, 0, 3, Empty, 48},
		{Request{Type: TypeZoneClose, Sector: 32}, OK, 0, 2, Empty, 32},
		{Request{Type: TypeOut, Sector: 32, Data: data(1)}, OK, 0, 2, ImpOpen, 33},
		{Request{Type: TypeOut, Sector: 48, Data: data(8)}, OK, 0, 3, Full, 56},
		{Request{Type: TypeIn, Sector: 48, Bytes: 9 * 512}, IOErr, 0, 2, Closed, 33},
		{Request{Type: TypeZoneReset, Sector: 48}, OK, 0, 3, Empty, 48},
		{Request{Type: TypeZoneFinish, Sector: 32}, OK, 0, 2, Full, 48},
		{Request{Type: TypeZoneResetAll}, OK, 0, 2, Empty, 32},
		{Request{Type: 99}, Unsupp, 0, 2, Empty, 32},
	} {
		o, d := m.Do(c.r), m.Descriptor(c.zone)
		if o.Status != c.status || o.Sector != c.sector || d.State != c.state || d.WP != c.wp {
			t.Errorf("%d: got %v, sector %d, zone %+v", i, o.Status, o.Sector, d)
		}
	}
	if got := m.Data(2, 20*512); !bytes.Equal(got, append(append(make([]byte, 512), data(13)...), make([]byte, 6*512)...)) {
		t.Error("the conventional zone does not hold what was written, or a reset has left something")
	}
}

// A write that fills a zone keeps its resources until it has ended, and its
// disk's clone does not see it.
func TestAdmitAndSettle(t *testing.T) {
	m := New(Geometry{CapacitySectors: 32, ZoneSectors: 8, MaxActive: 1, BlockBytes: 512})
	before := m.Clone()
	fill := Request{Type: TypeOut, Data: make([]byte, 8*512)}
	next := Request{Type: TypeZoneOpen, Sector: 8}
	if o := m.Admit(fill); o.Status != OK || m.Zones[0].State != ImpOpen {
		t.Error(o, m.Zones[0])
	}
	if o := m.Do(next); o.Status != ActiveResource {
		t.Error(o)
	}
	if m.Settle(); m.Zones[0].State != Full {
		t.Error(m.Zones[0])
	}
	if o := m.Do(next); o.Status != OK {
		t.Error(o)
	}
	if before.Zones[0].State != Empty || before.Key() == m.Key() {
		t.Error("the clone has changed, or looks the same")
	}
}

// Which zone is closed to make room can be chosen.
func TestPrefer(t *testing.T) {
	for prefer, want := range map[int]int{-1: 0, 0: 0, 1: 1, 3: 0} {
		m := New(Geometry{CapacitySectors: 32, ZoneSectors: 8, MaxOpen: 2, BlockBytes: 512})
		for i := range uint64(3) {
			m.Prefer = prefer
			m.Do(Request{Type: TypeOut, Sector: 8 * i, Data: make([]byte, 512)})
		}
		if m.Closed != want || m.Zones[want].State != Closed {
			t.Errorf("zone %d is preferred: %d was closed, want %d", prefer, m.Closed, want)
		}
	}
}

// A secure erase takes whole zones, all or none; what is out of service is not
// touched, and comes back empty.
func TestEraseAndService(t *testing.T) {
	m := New(Geometry{CapacitySectors: 4*8 + 4, ZoneSectors: 8, ConventionalZones: 1, BlockBytes: 512})
	erase := func(sector, n uint64) Status {
		return m.Do(Request{Type: TypeSecureErase, Sector: sector, Bytes: n * SectorBytes}).Status
	}
	if s := erase(8, 8); s != Unsupp {
		t.Error("without the feature:", s)
	}
	m.CanErase = true
	for i := uint64(1); i < 5; i++ {
		m.Do(Request{Type: TypeOut, Sector: 8 * i, Data: bytes.Repeat([]byte{1}, 512)})
	}
	for _, c := range []struct {
		sector, n uint64
		want      Status
	}{
		{8, 7, InvalidCmd}, {9, 7, InvalidCmd}, {0, 8, InvalidCmd}, {0, 16, InvalidCmd}, {8, 9, InvalidCmd}, {32, 8, IOErr}, {40, 8, IOErr},
	} {
		if got := erase(c.sector, c.n); got != c.want || m.Zones[1].State != ImpOpen {
			t.Errorf("erase of %d sectors at %d: %v, zone %v", c.n, c.sector, got, m.Zones[1].State)
		}
	}
	m.SetState(2, Offline)
	if s := erase(8, 16); s != InvalidCmd || m.Zones[1].State != ImpOpen {
		t.Error("with an offline zone:", s)
	}
	m.SetState(2, Empty)
	if s := erase(16, 20); s != OK || m.Zones[4].State != Empty || m.Zones[1].State != ImpOpen || len(m.Opened) != 1 {
		t.Error("to the end:", s, m.Zones, m.Opened)
	}
	if !bytes.Equal(m.Data(16, 20*512), make([]byte, 20*512)) {
		t.Error("something is left")
	}
}
