package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// look reads the whole disk over a session, and compares what it says with the
// file: what recovery has not kept has to be gone from there, too.
func look(g *rig.Geometry, image string, d *frontend.Disk, seed uint64) ([]view, error) {
	q := d.Queue(0)
	zones, err := q.ReportAll()
	if err != nil {
		return nil, err
	}
	if len(zones) != g.Zones() {
		return nil, fmt.Errorf("%d zones are reported, not %d", len(zones), g.Zones())
	}
	f, err := os.Open(image)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var where [8]byte
	if _, err := f.ReadAt(where[:], 112); err != nil { // offset of zone 0
		return nil, err
	}
	content, err := readAll(g, q)
	if err != nil {
		return nil, err
	}
	inFile := make([]byte, len(content))
	if _, err := f.ReadAt(inFile, int64(binary.LittleEndian.Uint64(where[:]))); err != nil {
		return nil, err
	}
	if !bytes.Equal(content, inFile) {
		return nil, errors.New("the disk reads otherwise than what the file holds")
	}
	views := make([]view, len(zones))
	for i, z := range zones {
		v := &views[i]
		v.state = z.State
		if v.sectors, err = rig.Parse(content[z.Start*sectorBytes:][:g.Length(i)*sectorBytes], seed); err != nil {
			return nil, fmt.Errorf("zone %d, which is %s with its write pointer at %d: %w", i, rig.StateNames[z.State], z.WP-z.Start, err)
		}
		switch z.State {
		case driver.ZoneNotWP:
		case driver.ZoneFull: // a full zone has no write pointer to show
			for at, s := range v.sectors {
				if s != (rig.Stamp{}) {
					v.written = uint64(at) + 1
				}
			}
		default:
			v.written = z.WP - z.Start
		}
	}
	return views, nil
}

// readAll reads the whole disk, with several requests in flight.
func readAll(g *rig.Geometry, q *frontend.Queue) ([]byte, error) {
	content := make([]byte, g.Size*sectorBytes)
	done := make([]*frontend.Request, depth)
	for at := uint64(0); at < g.Size || q.InFlight() > 0; {
		for at < g.Size {
			r := q.Get()
			if r == nil {
				break
			}
			// Not across zones.
			n := min(bufferBytes/sectorBytes, g.Zone-at%g.Zone, g.Size-at)
			r.Type, r.Sector = driver.TypeIn, at
			r.SetLen(int(n * sectorBytes))
			if err := q.Submit(r); err != nil {
				return nil, err
			}
			at += n
		}
		if err := q.Kick(); err != nil {
			return nil, err
		}
		n, err := q.Wait(done)
		if err != nil {
			return nil, err
		}
		for _, r := range done[:n] {
			if r.Status != driver.StatusOK {
				return nil, frontend.StatusError{Type: r.Type, Sector: r.Sector, Status: r.Status}
			}
			copy(content[r.Sector*sectorBytes:], r.Data)
			q.Put(r)
		}
	}
	return content, nil
}

// goOn uses the disk again: writing goes on where it stopped, and a reset zone
// takes new data.
func goOn(g *rig.Geometry, d *frontend.Disk, views []view, rng *rand.Rand, seed uint64) error {
	q := d.Queue(0)
	n := g.Block * sectorBytes
	want, got := make([]byte, n), make([]byte, n)
	last := uint64(1) << 40 // ids that the load has not used
	place := map[int]uint64{}
	for range 3 {
		i := g.Conventional + rng.IntN(len(views)-g.Conventional)
		v, start := &views[i], uint64(i)*g.Zone
		if v.state == driver.ZoneFull {
			if err := q.Zone(driver.TypeZoneReset, start); err != nil {
				return err
			}
			v.state, v.written = driver.ZoneEmpty, 0
		}
		if _, ok := place[i]; ok || v.written+g.Block > g.Capacity(i) {
			continue
		}
		rig.Fill(want, seed, last+uint64(i))
		sector, err := q.Append(want, start)
		if err != nil {
			if s := frontend.Status(err); s == driver.StatusZoneActiveResource || s == driver.StatusZoneOpenResource {
				continue // all places are taken
			}
			return fmt.Errorf("an append to zone %d: %w", i, err)
		}
		if sector != start+v.written {
			return fmt.Errorf("an append to zone %d, with %d sectors written, went to %d", i, v.written, sector-start)
		}
		place[i] = sector
	}
	if err := q.Flush(); err != nil {
		return fmt.Errorf("a flush: %w", err)
	}
	for i, sector := range place {
		rig.Fill(want, seed, last+uint64(i))
		if err := q.Read(got, sector); err != nil {
			return err
		}
		if string(got) != string(want) {
			return fmt.Errorf("zone %d does not hold what was appended to it", i)
		}
	}
	return nil
}

// finish takes the session and the daemon down.
func finish(d *frontend.Disk, p *rig.Daemon, err error) error {
	if d != nil {
		err = errors.Join(err, d.Close())
	}
	return errors.Join(err, p.End(15))
}
