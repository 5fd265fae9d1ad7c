package crash

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// image is the one in dir.
func image(dir string) string { return filepath.Join(dir, "disk.zvh") }

// create makes the image, and says what a new disk looks like.
func create(g *rig.Geometry, binary, dir string) ([]zoneView, error) {
	views := make([]zoneView, g.Zones())
	for i := range views {
		views[i] = zoneView{state: driver.ZoneEmpty, sectors: make([]rig.Stamp, g.Length(i))}
		if i < g.Conventional {
			views[i].state = driver.ZoneNotWP
		}
	}
	return views, g.Create(binary, image(dir))
}

// look reads the whole disk: the zones over the session of d and over the
// command line, which have to agree, and every sector over the session and in
// the file. The daemon has recovered, so what it has not written must be gone
// from the file, too.
func look(g *rig.Geometry, binary, dir string, d *frontend.Disk, seed uint64) ([]zoneView, error) {
	q := d.Queue(0)
	zones, err := q.ReportAll()
	if err != nil {
		return nil, err
	}
	if len(zones) != g.Zones() {
		return nil, findingf("%d zones are reported, not %d", len(zones), g.Zones())
	}
	f, err := os.Open(image(dir))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	entries, dataOff, err := liveTable(f, len(zones))
	if err != nil {
		return nil, err
	}
	views := make([]zoneView, len(zones))
	buf := make([]byte, bufferBytes)
	for i, z := range zones {
		v := &views[i]
		*v = zoneView{state: z.State, written: entries[i] & (1<<44 - 1)}
		if state := uint8(entries[i] >> 44 & 15); state != z.State {
			return nil, findingf("zone %d is reported %s, but %s in the live table", i, rig.StateNames[z.State], rig.StateNames[state])
		}
		switch z.State {
		case driver.ZoneEmpty, driver.ZoneImpOpen, driver.ZoneExpOpen, driver.ZoneClosed:
			if z.WP != z.Start+v.written {
				return nil, findingf("zone %d is reported with its write pointer at %d, but has %d sectors written in the live table", i, z.WP-z.Start, v.written)
			}
		}
		for at := uint64(0); at < g.Length(i); at = uint64(len(v.sectors)) {
			b := buf[:min(uint64(len(buf)), (g.Length(i)-at)*sectorBytes)]
			if err := q.Read(b, z.Start+at); err != nil {
				return nil, findingf("zone %d, sector %d: %w", i, at, err)
			}
			s, err := rig.Parse(b, seed)
			if err != nil {
				return nil, findingf("zone %d, from sector %d on: %w", i, at, err)
			}
			v.sectors = append(v.sectors, s...)
		}
		if err := compareFile(f, dataOff+int64(z.Start*sectorBytes), v.sectors, seed); err != nil {
			return nil, findingf("zone %d: %w", i, err)
		}
	}
	return views, compareReport(binary, dir, zones)
}

// liveTable reads the live zone table (docs/image-format.md).
func liveTable(f *os.File, zones int) (entries []uint64, dataOff int64, err error) {
	super := make([]byte, 4096)
	if _, err := f.ReadAt(super, 0); err != nil {
		return nil, 0, err
	}
	b := make([]byte, 8*zones)
	if _, err := f.ReadAt(b, int64(binary.LittleEndian.Uint64(super[96:]))); err != nil {
		return nil, 0, err
	}
	for i := range zones {
		entries = append(entries, binary.LittleEndian.Uint64(b[8*i:]))
	}
	return entries, int64(binary.LittleEndian.Uint64(super[112:])), nil
}

// compareFile looks whether the file holds at off what the guest was shown.
func compareFile(f *os.File, off int64, want []rig.Stamp, seed uint64) error {
	b := make([]byte, len(want)*sectorBytes)
	if _, err := f.ReadAt(b, off); err != nil {
		return err
	}
	got, err := rig.Parse(b, seed)
	for at, s := range got {
		if s != want[at] {
			return fmt.Errorf("sector %d reads as %v, but the file has %v there", at, want[at], s)
		}
	}
	if err != nil {
		return fmt.Errorf("the file: %w", err)
	}
	return nil
}

// compareReport looks whether zvhost report says what the guest was told.
func compareReport(binary, dir string, zones []driver.Zone) error {
	out, err := rig.Run(binary, "report", image(dir), "--json")
	if err != nil {
		return err
	}
	var report struct {
		Zones []struct {
			State string  `json:"state"`
			WP    *uint64 `json:"write_pointer_sector"`
		} `json:"zones"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || len(report.Zones) != len(zones) {
		return fmt.Errorf("zvhost report: %d zones, not %d: %v", len(report.Zones), len(zones), err)
	}
	for i, z := range report.Zones {
		if z.State != rig.StateNames[zones[i].State] || z.WP != nil && *z.WP != zones[i].WP {
			return fmt.Errorf("zone %d: zvhost report says %+v, the guest was told %+v", i, z, zones[i])
		}
	}
	return nil
}
