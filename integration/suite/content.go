package suite

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/zvhost/zvhost/internal/zonemodel"
)

// readLimit is how much of a large zone is looked at, in sectors.
const readLimit = maxBuffer / zonemodel.SectorBytes

// around is how much is looked at on either side of a place, in sectors.
const around = 16

// A span is data of a zone that was read.
type span struct {
	sector uint64
	data   []byte
}

// Verify reads zones whose data is still to be looked at.
func (s *Session) Verify() error {
	for i, places := range s.suspects {
		if err := s.verifyZone(s.Model, i, places, nil); err != nil {
			return err
		}
		delete(s.suspects, i)
	}
	return nil
}

// places adds those of requests to the places of zone i whose data is to be
// looked at where not all of it is: where they begin and end, where appends
// landed, and the ends of the zone and of its capacity.
func (s *Session) places(places []uint64, i int, ops ...*Op) []uint64 {
	z := &s.Model.Zones[i]
	add := func(sector uint64) {
		if z.Start <= sector && sector <= z.End && !slices.Contains(places, sector) {
			places = append(places, sector)
		}
	}
	add(z.Start)
	add(z.Writable)
	add(z.End)
	if !s.served.Sample {
		return places
	}
	for _, o := range ops {
		for _, from := range []uint64{o.Sector, o.at} {
			add(from)
			add(from + o.Bytes/zonemodel.SectorBytes)
		}
	}
	return places
}

// spans are the parts of zone i to be looked at: around the places and its write
// pointer where samples have to do, else all of it, of a large zone the beginning.
func (s *Session) spans(m *zonemodel.Model, i int, places []uint64) (spans []span) {
	z := &m.Zones[i]
	if !s.served.Sample {
		return beginning(z)
	}
	places = append(slices.Clone(places), min(max(z.WP, z.Start), z.End))
	slices.Sort(places)
	at := z.Start // all before it is looked at
	for _, p := range places {
		from, to := max(at, p-min(p, around))&^7, min((p+around+7)&^7, z.End)
		if from = max(from, z.Start); from >= to {
			continue
		}
		spans = append(spans, span{from, make([]byte, (to-from)*zonemodel.SectorBytes)})
		at = to
	}
	return spans
}

// beginning is all of a zone, of a large one its beginning.
func beginning(z *zonemodel.Zone) []span {
	return []span{{z.Start, make([]byte, min(z.End-z.Start, readLimit)*zonemodel.SectorBytes)}}
}

// readZone reads parts of zone i.
func (s *Session) readZone(i int, spans []span) error {
	for _, p := range spans {
		for off := 0; off < len(p.data); off += s.buffer &^ 4095 {
			part := p.data[off:min(len(p.data), off+s.buffer&^4095)]
			if err := s.disk.Queue(0).Read(part, p.sector+uint64(off)/zonemodel.SectorBytes); err != nil {
				return fmt.Errorf("reading zone %d, %v: %w", i, s.Model.Zones[i].State, err)
			}
		}
	}
	return nil
}

// verifyZone compares what zone i holds, at these places, with what it has to in
// m. seen keeps what was read.
func (s *Session) verifyZone(m *zonemodel.Model, i int, places []uint64, seen map[int][]span) (err error) {
	z := &m.Zones[i]
	if z.State == zonemodel.Offline {
		return nil
	}
	got, ok := seen[i]
	if !ok {
		got = s.spans(m, i, places)
		if err = s.readZone(i, got); err != nil {
			return err
		}
		if seen != nil {
			seen[i] = got
		}
	}
	for _, p := range got {
		want := m.Data(p.sector, uint64(len(p.data)))
		for n := 0; !bytes.Equal(p.data[n:], want[n:]); n += zonemodel.SectorBytes {
			if !bytes.Equal(p.data[n:n+zonemodel.SectorBytes], want[n:n+zonemodel.SectorBytes]) {
				return &Divergence{What: fmt.Sprintf("zone %d, %v, write pointer at %d: sector %d does not hold what it should",
					i, z.State, z.WP, p.sector+uint64(n)/zonemodel.SectorBytes)}
			}
		}
	}
	return nil
}
