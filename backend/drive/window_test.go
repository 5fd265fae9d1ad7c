package drive

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/zone"
)

// A window is a disk of its own: its zones are numbered from zero, and nobody
// gets beyond them. The drive has zones 0 to 15 of 128 sectors, 96 of them
// writable; 0 and 1 are conventional, and the last one has 64.
func TestWindow(t *testing.T) {
	for _, tt := range []struct {
		w        disk.Window
		capacity uint64
	}{
		{disk.Window{First: 0, Last: 15}, 15*128 + 64}, {disk.Window{First: 0, Last: 0}, 128}, {disk.Window{First: 0, Last: 1}, 256}, {disk.Window{First: 1, Last: 2}, 256},
		{disk.Window{First: 2, Last: 2}, 128}, {disk.Window{First: 3, Last: 7}, 5 * 128}, {disk.Window{First: 14, Last: 14}, 128}, {disk.Window{First: 14, Last: 15}, 128 + 64}, {disk.Window{First: 15, Last: 15}, 64},
	} {
		d := newFakeDrive(t, disktest.Small, nil, &tt.w)
		c := disktest.NewClient(t, d)
		info, n := d.Info(), tt.w.Last-tt.w.First+1
		if info.CapacitySectors != tt.capacity || info.Zoned.Zones != n || info.Zoned.ZoneSectors != 128 || len(d.zones) != n {
			t.Fatalf("%v: %+v, %+v", tt.w, info, info.Zoned)
		}
		before := d.dev.m.Clone()
		for i := range n {
			start, at := uint64(i)*128, uint64(tt.w.First+i)*128
			z, dev := d.ReportZone(i), d.dev.m.Descriptor(tt.w.First+i)
			if z.Start != start || z.WP != start || z.Length != dev.Length || z.Capacity != dev.Capacity || (z.Type == zone.Conventional) != dev.Conventional {
				t.Errorf("%v: zone %d is %+v, of the drive %+v", tt.w, i, z, dev)
			}
			data := disktest.Pattern(byte('a'+i), int(z.Capacity)*512)
			c.WantError(c.Write(start, data), nil)
			if !bytes.Equal(d.dev.m.Data(at, z.Capacity*512), data) || !bytes.Equal(c.Read(start, len(data)), data) {
				t.Errorf("%v: zone %d has something else", tt.w, i)
			}
			_, err := c.Append(start, disktest.Pattern('x', 512))
			c.WantError(err, zone.ErrInvalid)
		}
		// Behind the last there is nothing.
		c.WantError(c.Do(disktest.NewRequest(disk.OpRead, tt.capacity, make([]byte, 512))), disk.ErrRange)
		c.WantError(c.Do(disktest.NewRequest(disk.OpRead, tt.capacity-1, make([]byte, 1024))), disk.ErrRange)
		c.WantError(c.Write(tt.capacity, make([]byte, 512)), disk.ErrRange)
		for _, op := range []disk.Op{disk.OpOpen, disk.OpClose, disk.OpFinish, disk.OpReset, disk.OpReport} {
			r := disktest.NewRequest(op, tt.capacity, nil)
			if op == disk.OpReport {
				r.Bytes = 1
			}
			c.WantError(c.Do(r), zone.ErrInvalid)
		}
		for _, zones := range []uint64{0, uint64(n) + 1, 1 << 63, 1<<64 - 1} {
			c.WantError(c.Do(&disk.Request{Op: disk.OpReport, Bytes: zones}), zone.ErrInvalid)
		}
		c.WantError(c.ZoneOp(disk.OpResetAll, 0), nil)
		for i := range n {
			if z := d.Drive.ReportZone(i); z.Type != zone.Conventional && z.State != zone.Empty {
				t.Errorf("%v: zone %d is %v", tt.w, i, z.State)
			}
		}
		for i, z := range d.dev.m.Zones {
			if outside := i < tt.w.First || i > tt.w.Last; outside && (z.State != before.Zones[i].State || z.WP != before.Zones[i].WP) {
				t.Errorf("%v: zone %d of the drive has changed", tt.w, i)
			}
		}
	}
}

// The zones of a window are kept from whoever else would serve one of them.
func TestClaim(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device")
	claim := func(w disk.Window, readOnly bool) (*Drive, error) {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		d := &Drive{f: f, first: uint64(w.First) * 128}
		d.info = disk.Info{CapacitySectors: uint64(w.Last-w.First+1) * 128, ReadOnly: readOnly}
		return d, d.claim()
	}
	middle, err := claim(disk.Window{First: 16, Last: 79}, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []disk.Window{{First: 0, Last: 15}, {First: 80, Last: 80}, {First: 81, Last: 1 << 20}} {
		if _, err := claim(w, false); err != nil {
			t.Errorf("%v: %v", w, err)
		}
	}
	for _, w := range []disk.Window{{First: 16, Last: 79}, {First: 0, Last: 16}, {First: 79, Last: 79}, {First: 40, Last: 41}, {First: 0, Last: 1 << 30}} {
		for _, readOnly := range []bool{false, true} {
			if _, err := claim(w, readOnly); err == nil || !strings.Contains(err.Error(), "served already") {
				t.Errorf("%v, read-only %v: %v", w, readOnly, err)
			}
		}
	}
	if err := middle.f.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // who only reads can be many
		if _, err := claim(disk.Window{First: 16, Last: 40}, true); err != nil {
			t.Error(err)
		}
	}
	if _, err := claim(disk.Window{First: 40, Last: 50}, false); err == nil {
		t.Error("zones that others read are written")
	}
}

// What is no drive that Linux or this program can work with is refused, and so is
// a window that it does not have.
func TestCut(t *testing.T) {
	zones := func(lengths ...uint64) (all []kernelZone) {
		at := uint64(0)
		for _, n := range lengths {
			all = append(all, kernelZone{start: at, length: n, capacity: n, typ: zone.SequentialWriteRequired, state: zone.Empty})
			at += n
		}
		return all
	}
	for _, tt := range []struct {
		all  []kernelZone
		w    *disk.Window
		want string
	}{
		{zones(128, 128, 128), nil, ""},
		{zones(128, 128, 1), nil, ""},
		{zones(128), &disk.Window{First: 0, Last: 0}, ""},
		{zones(128, 128, 64), &disk.Window{First: 2, Last: 2}, ""},
		{nil, nil, "it has no zones"},
		{zones(128, 64, 128), nil, "zone 1 has 64 sectors and not 128"},
		{zones(128, 256), nil, "zone 1 has 256 sectors and not 128"},
		{zones(96, 96), nil, "must be a power of two"},
		{zones(128, 128), &disk.Window{First: 0, Last: 2}, "zones 0-2: it has zones 0 to 1"},
		{zones(128, 128), &disk.Window{First: -1, Last: 1}, "zones -1-1: it has zones 0 to 1"},
		{zones(128, 128), &disk.Window{First: 1, Last: 0}, "zones 1-0: it has"},
		{zones(128, 128), &disk.Window{First: 2, Last: 2}, "zones 2-2: it has"},
		{zones(128, 64, 128), &disk.Window{First: 0, Last: 0}, "only the last zone may be smaller"},
	} {
		var d Drive
		got, err := d.cut(tt.all, tt.w)
		switch {
		case tt.want != "":
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%d zones, window %v: %v, want %q", len(tt.all), tt.w, err, tt.want)
			}
		case err != nil:
			t.Error(err)
		case tt.w == nil && (len(got) != len(tt.all) || !d.whole), tt.w != nil && len(got) != tt.w.Last-tt.w.First+1:
			t.Errorf("window %v: %d zones, all of it: %v", tt.w, len(got), d.whole)
		}
	}
}

// What the kernel says of a drive is what guests are told of it.
func TestLimits(t *testing.T) {
	plainly := map[string]string{
		"zone_write_granularity": "4096\n", "zone_append_max_bytes": "131072\n", "max_hw_sectors_kb": "1280\n",
		"max_open_zones": "14\n", "max_active_zones": "15\n", "dma_alignment": "3\n",
	}
	const zoneSectors = 1 << 15
	for name, tt := range map[string]struct {
		attributes map[string]string
		capacity   uint64 // of each zone, sectors
		last       uint64 // sectors of the last zone
		want       disk.ZonedInfo
		alignment  uint64
		err        string
	}{
		"all of them":            {plainly, 1 << 14, zoneSectors, disk.ZonedInfo{MaxOpen: 14, MaxActive: 15, MaxAppendSectors: 256, WriteGranularity: 4096}, 3, ""},
		"nothing":                {nil, 1 << 14, zoneSectors, disk.ZonedInfo{MaxAppendSectors: 1024, WriteGranularity: 512}, 511, ""},
		"no appends":             {map[string]string{"zone_append_max_bytes": "0", "max_hw_sectors_kb": "64"}, 1 << 14, zoneSectors, disk.ZonedInfo{MaxAppendSectors: 128, WriteGranularity: 512}, 511, ""},
		"odd limit":              {map[string]string{"zone_append_max_bytes": "130000", "zone_write_granularity": "4096"}, 1 << 14, zoneSectors, disk.ZonedInfo{MaxAppendSectors: 248, WriteGranularity: 4096}, 511, ""},
		"more than a zone takes": {plainly, 64, zoneSectors, disk.ZonedInfo{MaxOpen: 14, MaxActive: 15, MaxAppendSectors: 64, WriteGranularity: 4096}, 3, ""},
		"a small last zone":      {plainly, 1 << 14, 24, disk.ZonedInfo{MaxOpen: 14, MaxActive: 15, MaxAppendSectors: 256, WriteGranularity: 4096}, 3, ""},
		"no number":              {map[string]string{"max_open_zones": "many"}, 1 << 14, zoneSectors, disk.ZonedInfo{}, 0, "read max_open_zones of its queue"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir() + "/"
			for name, value := range tt.attributes {
				if err := os.WriteFile(dir+name, []byte(value), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			all := make([]kernelZone, 4)
			for i := range all {
				all[i] = kernelZone{start: uint64(i) * zoneSectors, length: zoneSectors, capacity: tt.capacity, typ: zone.SequentialWriteRequired, state: zone.Empty}
			}
			all[0].typ, all[0].state, all[0].capacity = zone.Conventional, zone.NotWP, zoneSectors
			all[3].length, all[3].capacity = tt.last, min(tt.last, tt.capacity)
			var d Drive
			zones, err := d.cut(all, &disk.Window{First: 1, Last: 3})
			if err != nil {
				t.Fatal(err)
			}
			err = d.describe(zones, 512, 4096, &disk.QueueLimits{Dirs: []string{dir + "none/", dir}})
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %q", err, tt.err)
				}
				return
			}
			want := tt.want
			want.Zones, want.ZoneSectors, want.Moves = 3, zoneSectors, true
			if err != nil || *d.info.Zoned != want || d.reach.Address != tt.alignment || d.info.CapacitySectors != 2*zoneSectors+tt.last {
				t.Errorf("%+v, %+v, alignment %d, %v; want %+v", d.info, *d.info.Zoned, d.reach.Address, err, want)
			}
			// The last one alone is smaller than a zone, and no size of zones.
			if zones, err = d.cut(all, &disk.Window{First: 3, Last: 3}); err == nil {
				err = d.describe(zones, 512, 4096, &disk.QueueLimits{})
			}
			if err != nil || d.info.Zoned.ZoneSectors != zoneSectors || d.info.CapacitySectors != tt.last {
				t.Errorf("%+v, %+v, %v", d.info, *d.info.Zoned, err)
			}
		})
	}
}

// Where the drive takes writes in larger units than blocks, what does not end on
// one is told so, and the drive is not asked.
func TestGranularity(t *testing.T) {
	d := newFakeDrive(t, disktest.Small, nil, nil)
	d.info.Zoned.WriteGranularity = 4096
	c := disktest.NewClient(t, d)
	for _, n := range []int{512, 4096 + 512, 4095} {
		c.WantError(c.Write(256, disktest.Pattern('a', n)), zone.ErrUnaligned)
		_, err := c.Append(256, disktest.Pattern('a', n))
		c.WantError(err, zone.ErrUnaligned)
	}
	if n := len(d.dev.writes()); n != 0 {
		t.Errorf("the drive was sent %d writes", n)
	}
	c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
	c.WantError(c.Write(1, disktest.Pattern('a', 512)), nil) // conventional zones have none
	c.Read(257, 512)
}

// The device is opened, or the reason says what is wrong with it.
func TestOpenRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(dir, "none"), disk.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	for _, w := range []*disk.Window{nil, {First: 0, Last: 1}} {
		if _, err := Open(file, disk.Options{Window: w, ReadOnly: w == nil}); err == nil || !strings.Contains(err.Error(), "ask for its size") {
			t.Error(err)
		}
	}
	if _, err := ReadReport(filepath.Join(dir, "none"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := ReadReport(file, nil); err == nil || !strings.Contains(err.Error(), "ask for its size") {
		t.Error(err)
	}
}
