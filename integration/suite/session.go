package suite

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/zvhost/zvhost/internal/zonemodel"
	"github.com/zvhost/zvhost/virtio/blkclient"
	"github.com/zvhost/zvhost/virtio/driver"
)

// A Divergence is a disk that did what no model does.
type Divergence struct {
	Ops  []*Op
	What string
}

func (d *Divergence) Error() string {
	var b strings.Builder
	b.WriteString(d.What)
	for _, o := range d.Ops {
		fmt.Fprintf(&b, "\n\t%v: %s", o, o.Outcome())
	}
	return b.String()
}

// Batch issues requests at once, waits for all of them, and looks for an order in
// which the model answers them all as the disk has, and ends as the disk is: by
// its report, and by the data of each zone that they were about. The model is
// then what that order leads to. Without such an order it returns a *Divergence.
func (s *Session) Batch(ops ...*Op) error {
	s.Batches++
	s.Cases += len(ops)
	if err := s.preserve(ops); err != nil {
		return err
	}
	before := s.Model
	if err := s.exchange(ops); err != nil {
		return err
	}
	table, err := s.report()
	if err != nil {
		return err
	}
	s.zones = table
	if err := s.checkReads(before, ops); err != nil {
		return &Divergence{ops, err.Error()}
	}
	after, err := s.explain(ops, table)
	if err != nil {
		var d *Divergence
		if errors.As(err, &d) {
			d.Ops = ops
		}
		return err
	}
	s.Model = after
	if s.Patient {
		for _, o := range ops {
			if o.status != zonemodel.OK && o.hasData() && o.Sector < s.Model.CapacitySectors {
				i, _ := s.Model.ZoneOf(o.Sector)
				s.suspects[i] = s.places(s.suspects[i], i, o)
			}
		}
	}
	return nil
}

// preserve looks at the data of zones that are to change while it is still due.
func (s *Session) preserve(ops []*Op) error {
	if len(s.suspects) == 0 {
		return nil
	}
	for _, o := range ops {
		if o.Type == driver.TypeZoneResetAll || o.Type == driver.TypeSecureErase || o.Sector < s.Model.CapacitySectors && s.suspects[int(o.Sector/s.Model.ZoneSectors)] != nil && o.Type == driver.TypeZoneReset {
			return s.Verify()
		}
	}
	return nil
}

// exchange sends all requests and takes all answers.
func (s *Session) exchange(ops []*Op) error {
	sent := make([]int, s.Queues)
	requests := make([][]*Op, s.Queues)
	for _, o := range ops {
		n := o.Queue % s.Queues
		q := s.disk.Queue(n)
		if o.room() > uint64(s.buffer) {
			return fmt.Errorf("%v: larger than a request's buffer of %d bytes", o, s.buffer)
		}
		r := q.Get()
		if r == nil {
			return fmt.Errorf("more than %d requests for one queue at once", depth)
		}
		s.fills++
		o.dress(r, s.fills)
		r.Tag = uint64(len(requests[n]))
		requests[n] = append(requests[n], o)
		if err := q.Submit(r); err != nil {
			return err
		}
		sent[n]++
	}
	for n := range sent {
		if sent[n] > 0 {
			if err := s.disk.Queue(n).Kick(); err != nil {
				return err
			}
		}
	}
	var done [depth]*blkclient.Request
	for n := range sent {
		q := s.disk.Queue(n)
		for sent[n] > 0 {
			k, err := q.Wait(done[:])
			if err != nil {
				return fmt.Errorf("%w\n%v", err, &Divergence{ops, "no answer to some of"})
			}
			for _, r := range done[:k] {
				o := requests[n][r.Tag]
				if o.take(r); s.served.tamper != nil {
					s.served.tamper(o)
				}
				q.Put(r)
			}
			sent[n] -= k
		}
	}
	return nil
}

// take notes the outcome.
func (o *Op) take(r *blkclient.Request) {
	o.status, o.at, o.written = zonemodel.Status(r.Status), r.AppendSector, r.Written
	if driver.DataIsWritten(o.Type) && o.status == zonemodel.OK {
		o.got = append([]byte(nil), r.Data...)
	}
}

func (s *Session) report() ([]driver.Zone, error) {
	zones, err := s.disk.Queue(0).ReportAll()
	if err == nil && len(zones) != len(s.Model.Zones) {
		err = fmt.Errorf("%d zones are reported, not %d", len(zones), len(s.Model.Zones))
	}
	return zones, err
}

// same says whether a descriptor is what the model has for zone i.
func same(m *zonemodel.Model, i int, z *driver.Zone) bool {
	d := m.Descriptor(i)
	typ := uint8(driver.ZoneTypeSWR)
	if d.Conventional {
		typ = driver.ZoneTypeConv
	}
	return *z == driver.Zone{Capacity: d.Capacity, Start: d.Start, WP: d.WP, Type: typ, State: uint8(d.State)}
}

// Compare holds the zone table, as it is told besides reports, against the model.
func (s *Session) Compare() error {
	if s.served.Zones == nil {
		return nil
	}
	zones, err := s.served.Zones()
	if err != nil {
		return err
	}
	if len(zones) != len(s.Model.Zones) {
		return fmt.Errorf("out of band there are %d zones, not %d", len(zones), len(s.Model.Zones))
	}
	for i, z := range zones {
		if want := s.Model.Descriptor(i); z != want {
			return &Divergence{What: fmt.Sprintf("zone %d is %+v out of band, want %+v", i, z, want)}
		}
	}
	return nil
}

// checkReads looks at what requests have read that other ones of the batch do not
// change meanwhile, and at how much the used ring says was written.
func (s *Session) checkReads(before *zonemodel.Model, ops []*Op) error {
	for _, o := range ops {
		if o.written > o.most {
			return fmt.Errorf("%v: %d bytes were written by what the used ring says, but there are %d", o, o.written, o.most)
		}
		if o.status != zonemodel.OK {
			continue
		}
		var err error
		switch o.Type {
		case driver.TypeIn:
			err = checkRead(before, ops, o)
		case driver.TypeZoneReport:
			err = checkReport(before, ops, o)
		case driver.TypeGetID:
			if id := strings.TrimRight(string(o.got), "\x00"); o.Bytes == driver.IDBytes && id != s.id {
				err = fmt.Errorf("%v: %q, not %q", o, id, s.id)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func checkRead(before *zonemodel.Model, ops []*Op, o *Op) error {
	if uint64(o.written) < o.Bytes {
		return fmt.Errorf("%v: %d bytes were written by what the used ring says", o, o.written)
	}
	want := before.Data(o.Sector, o.Bytes)
	for n := uint64(0); n < o.Bytes; n += zonemodel.SectorBytes {
		sector := o.Sector + n/zonemodel.SectorBytes
		if !bytes.Equal(o.got[n:n+zonemodel.SectorBytes], want[n:n+zonemodel.SectorBytes]) && !changes(before, ops, sector) {
			return fmt.Errorf("%v: sector %d does not hold what it should", o, sector)
		}
	}
	return nil
}

// changes says whether a sector may change while the requests are under way.
func changes(m *zonemodel.Model, ops []*Op, sector uint64) bool {
	i, z := m.ZoneOf(sector)
	return slices.ContainsFunc(ops, func(o *Op) bool {
		switch o.Type {
		case driver.TypeZoneResetAll:
			return !z.Conventional
		case driver.TypeZoneReset, driver.TypeSecureErase:
			return o.Sector < z.End && o.Sector+max(1, o.Bytes/zonemodel.SectorBytes) > z.Start
		case driver.TypeOut:
			if z.Conventional {
				return o.Sector <= sector && sector < o.Sector+(o.Bytes+zonemodel.SectorBytes-1)/zonemodel.SectorBytes
			}
			fallthrough
		case driver.TypeZoneAppend:
			return int(o.Sector/m.ZoneSectors) == i && sector >= z.WP
		}
		return false
	})
}

// checkReport looks at a report; at the zones' states only if it came alone.
func checkReport(m *zonemodel.Model, ops []*Op, o *Op) error {
	zones, err := driver.ParseReport(nil, o.got)
	if err != nil {
		return fmt.Errorf("%v: %w", o, err)
	}
	_, first, n := m.Report(o.Sector, o.Bytes)
	if len(zones) != n {
		return fmt.Errorf("%v: %d zones, want %d", o, len(zones), n)
	}
	if want := driver.ReportHeaderBytes + n*driver.ZoneDescriptorBytes; int(o.written) < want {
		return fmt.Errorf("%v: %d bytes were written by what the used ring says, but %d zones are there", o, o.written, n)
	}
	for i := range zones {
		z := zones[i]
		if len(ops) > 1 {
			d := m.Descriptor(first + i)
			z.State, z.WP = uint8(d.State), d.WP
		}
		if !same(m, first+i, &z) {
			return fmt.Errorf("%v: zone %d is %+v, want %+v", o, first+i, z, m.Descriptor(first+i))
		}
	}
	return nil
}
