package daemon

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// smallZones is 8 zones of 64 KiB with 48 KiB to write, the first conventional,
// in blocks of 4 KiB.
var smallZones = backend.Geometry{
	CapacitySectors: 1024, ZoneSectors: 128, ZoneCapacitySectors: 96, ConventionalZones: 1,
	MaxOpen: 2, MaxActive: 3, MaxAppendSectors: 64, BlockSize: 4096,
}

// rings are the ways to negotiate a ring.
var rings = map[string]uint64{
	"event index, indirect":       0,
	"event index, direct":         driver.FeatureIndirectDesc,
	"no event index, indirect":    driver.FeatureEventIdx,
	"no event index, direct":      driver.FeatureEventIdx | driver.FeatureIndirectDesc,
	"no protocol features at all": 1 << 30,
}

// Every request and every status of a zoned disk, end to end.
func TestZonedRequests(t *testing.T) {
	for name, without := range rings {
		t.Run(name, func(t *testing.T) {
			r := zonedRig(t, smallZones, 1)
			g := r.connect(frontend.Options{Without: without})
			zonedRequests(g)
			g.leave()
		})
	}
}

func zonedRequests(g *guest) {
	const zone, block = 128, 4096
	t, q := g.r.t, g.Queue(0)
	buf := make([]byte, 4*block)
	appends := func(z uint64, blocks int, seed, want uint64) {
		t.Helper()
		at, err := q.Append(pattern(blocks*block, seed), z*zone)
		g.want("append", driver.StatusOK, err)
		if at != want {
			t.Errorf("append to zone %d at sector %d, want %d", z, at, want)
		}
	}
	reads := func(sector uint64, n int, want []byte) {
		t.Helper()
		g.want("read", driver.StatusOK, q.Read(buf[:n], sector))
		if !bytes.Equal(buf[:n], want) {
			t.Errorf("sector %d does not have what was written", sector)
		}
	}

	if id, err := q.ID(); err != nil || id != rigSerial {
		t.Errorf("serial %q, %v", id, err)
	}
	// Conventional.
	g.want("write", driver.StatusOK, q.Write(pattern(2*block, 1), 8))
	reads(8, 2*block, pattern(2*block, 1))
	_, err := q.Append(pattern(block, 1), 0)
	g.want("append to a conventional zone", driver.StatusZoneInvalidCmd, err)
	g.want("reset of a conventional zone", driver.StatusZoneInvalidCmd, q.Zone(driver.TypeZoneReset, 0))

	// Sequential: at the write pointer or where the disk says.
	g.want("write", driver.StatusOK, q.Write(pattern(block, 2), zone))
	appends(1, 2, 3, zone+8)
	g.want("write behind the write pointer", driver.StatusZoneUnalignedWP, q.Write(pattern(block, 2), zone+32))
	g.want("write before the write pointer", driver.StatusZoneUnalignedWP, q.Write(pattern(block, 2), zone))
	g.want("append of part of a block", driver.StatusZoneUnalignedWP, firstOf(q.Append(pattern(512, 2), zone)))
	g.want("append not at a zone's start", driver.StatusZoneInvalidCmd, firstOf(q.Append(pattern(block, 2), zone+8)))
	g.want("append beyond the limit", driver.StatusZoneInvalidCmd, firstOf(q.Append(pattern(9*block, 2), zone)))
	reads(zone, block, pattern(block, 2))
	reads(zone+8, 2*block, pattern(2*block, 3))
	reads(zone+24, block, make([]byte, block))
	g.want("flush", driver.StatusOK, q.Flush())

	// One open zone too many, one active zone too many.
	g.want("open", driver.StatusOK, q.Zone(driver.TypeZoneOpen, 2*zone))
	g.want("open", driver.StatusOK, q.Zone(driver.TypeZoneOpen, 1*zone))
	g.want("open of a third zone", driver.StatusZoneOpenResource, q.Zone(driver.TypeZoneOpen, 3*zone))
	g.want("append to a third zone", driver.StatusZoneOpenResource, firstOf(q.Append(pattern(block, 2), 3*zone)))
	g.want("close", driver.StatusOK, q.Zone(driver.TypeZoneClose, zone))
	appends(3, 1, 4, 3*zone)
	g.want("close", driver.StatusOK, q.Zone(driver.TypeZoneClose, 3*zone))
	g.want("close", driver.StatusOK, q.Zone(driver.TypeZoneClose, 2*zone))
	g.want("open", driver.StatusOK, q.Zone(driver.TypeZoneOpen, 2*zone))
	g.want("append to a fourth zone", driver.StatusZoneActiveResource, firstOf(q.Append(pattern(block, 2), 4*zone)))

	// Full.
	g.want("finish", driver.StatusOK, q.Zone(driver.TypeZoneFinish, 2*zone))
	g.want("append to a full zone", driver.StatusZoneInvalidCmd, firstOf(q.Append(pattern(block, 2), 2*zone)))
	for i := range 12 {
		appends(6, 1, uint64(i), 6*zone+8*uint64(i))
	}
	g.want("append past the capacity", driver.StatusZoneInvalidCmd, firstOf(q.Append(pattern(block, 2), 6*zone)))
	zones, err := q.Report(0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := states(zones), "0:0 4:24 14:128 4:8 1:0 1:0 14:128 1:0"; got != want {
		t.Errorf("states and write pointers %q, want %q", got, want)
	}
	g.want("reset", driver.StatusOK, q.Zone(driver.TypeZoneReset, 6*zone))
	reads(6*zone, block, make([]byte, block))
	g.want("reset of all", driver.StatusOK, q.Zone(driver.TypeZoneResetAll, 0))
	zones, err = q.Report(0, 1000)
	if err != nil || len(zones) != 8 {
		t.Fatalf("%d zones, %v", len(zones), err)
	}
	for i, z := range zones[1:] {
		if z.State != driver.ZoneEmpty || z.WP != z.Start || z.Type != driver.ZoneTypeSWR {
			t.Errorf("zone %d after a reset of all: %+v", i+1, z)
		}
	}

	// Outside, and what no zoned disk knows.
	g.want("read outside", driver.StatusIOErr, q.Read(buf[:block], 1024))
	g.want("report outside", driver.StatusZoneInvalidCmd, firstOf(q.Report(1024, 1)))
	g.want("discard", driver.StatusUnsupp, q.Discard(frontend.Segment{Sector: 0, Sectors: 8}))
	g.want("unknown", driver.StatusUnsupp, q.Zone(28, 0))
}

func firstOf[T any](_ T, err error) error { return err }

// states is each zone's state and write pointer, in sectors from its start.
func states(zones []driver.Zone) string {
	var s []string
	for _, z := range zones {
		s = append(s, fmt.Sprintf("%d:%d", z.State, z.WP-z.Start))
	}
	return strings.Join(s, " ")
}

// The requests of an ordinary disk, end to end.
func TestPlainRequests(t *testing.T) {
	for name, without := range rings {
		t.Run(name, func(t *testing.T) {
			r := plainRig(t, 1)
			g := r.connect(frontend.Options{Without: without})
			q, buf := g.Queue(0), make([]byte, 8192)
			g.want("write", driver.StatusOK, q.Write(pattern(8192, 1), 16))
			g.want("write zeroes", driver.StatusOK, q.WriteZeroes(frontend.Segment{Sector: 16, Sectors: 4}, frontend.Segment{Sector: 22, Sectors: 2, Flags: 1}))
			g.want("discard", driver.StatusOK, q.Discard(frontend.Segment{Sector: 1024, Sectors: 64}))
			g.want("flush", driver.StatusOK, q.Flush())
			g.want("read", driver.StatusOK, q.Read(buf, 16))
			want := pattern(8192, 1)
			clear(want[:2048])
			clear(want[6*512 : 8*512])
			if !bytes.Equal(buf, want) {
				t.Error("read something else than was written")
			}
			g.want("read at the end", driver.StatusOK, q.Read(buf[:512], 2047))
			g.want("read past the end", driver.StatusIOErr, q.Read(buf[:1024], 2047))
			g.want("append", driver.StatusUnsupp, firstOf(q.Append(buf[:512], 0)))
			g.want("report", driver.StatusUnsupp, firstOf(q.Report(0, 1)))
			g.want("unknown", driver.StatusUnsupp, q.Zone(99, 0))
			g.leave()
		})
	}
}

// A read-only disk answers each request that would change it with an error.
func TestReadOnlyDisk(t *testing.T) {
	w := zonedRig(t, smallZones, 1)
	g := w.connect(frontend.Options{})
	g.want("append", driver.StatusOK, firstOf(g.Queue(0).Append(pattern(4096, 7), 128)))
	g.leave()
	w.close()
	r := openRig(t, w.path, 1, backend.Options{ReadOnly: true})
	g = r.connect(frontend.Options{})
	q, buf := g.Queue(0), make([]byte, 4096)
	if g.Features&driver.BlkRO == 0 {
		t.Error("RO is not offered")
	}
	g.want("read", driver.StatusOK, q.Read(buf, 128))
	if !bytes.Equal(buf, pattern(4096, 7)) {
		t.Error("read something else than was written")
	}
	g.want("append", driver.StatusIOErr, firstOf(q.Append(buf, 128)))
	g.want("write", driver.StatusIOErr, q.Write(buf, 0))
	g.want("reset", driver.StatusZoneInvalidCmd, q.Zone(driver.TypeZoneReset, 128))
	g.want("reset of all", driver.StatusIOErr, q.Zone(driver.TypeZoneResetAll, 0))
	g.want("flush", driver.StatusOK, q.Flush())
	g.leave()
}

// What fails below is an I/O error of that request, one line in the log, and
// nothing else.
func TestDiskFails(t *testing.T) {
	r := zonedRig(t, smallZones, 1)
	gate := r.newGate()
	g := r.connect(frontend.Options{})
	q, buf := g.Queue(0), make([]byte, 4096)
	g.want("append", driver.StatusOK, firstOf(q.Append(pattern(4096, 7), 128)))
	gate.broken.Store(true)
	g.want("append", driver.StatusIOErr, firstOf(q.Append(pattern(4096, 8), 128)))
	g.want("read", driver.StatusIOErr, q.Read(buf, 128))
	gate.broken.Store(false)
	r.logged("queue 0: append of 4096 bytes at sector 128 (zone 1): input/output error")
	at, err := q.Append(pattern(4096, 9), 128)
	g.want("append", driver.StatusOK, err)
	if at != 136 {
		t.Errorf("append at sector %d behind one that failed at 136", at)
	}
	g.leave()
}

// Write-through makes writes stable before they are answered, which shows here
// as I/O that asks for it (RWF_DSYNC); write-back does not.
func TestCacheMode(t *testing.T) {
	r := plainRig(t, 1)
	gate := r.newGate()
	g := r.connect(frontend.Options{})
	q := g.Queue(0)
	writes := func(want int64) {
		t.Helper()
		was := gate.stable.Load()
		g.want("write", driver.StatusOK, q.Write(pattern(4096, 1), 0))
		if got := gate.stable.Load() - was; got != want {
			t.Errorf("%d stable writes of 1, want %d", got, want)
		}
	}
	mode := func(want byte) {
		t.Helper()
		b, err := g.Client.Config(driver.WritebackOffset, 1)
		if err != nil || b[0] != want {
			t.Errorf("writeback is %v, %v", b, err)
		}
	}
	mode(1)
	writes(0)
	if err := g.Client.SetConfig(driver.WritebackOffset, []byte{0}); err != nil {
		t.Fatal(err)
	}
	mode(0)
	writes(1)
	// The whole space, as QEMU sends it, changes nothing else.
	space, err := g.Client.Config(0, driver.BlkConfigBytes)
	if err != nil {
		t.Fatal(err)
	}
	space = bytes.Clone(space)
	sent := bytes.Repeat([]byte{0xa5}, driver.BlkConfigBytes)
	sent[driver.WritebackOffset] = 1
	if err := g.Client.SetConfig(0, sent); err != nil {
		t.Fatal(err)
	}
	space[driver.WritebackOffset] = 1
	if got, err := g.Client.Config(0, driver.BlkConfigBytes); err != nil || !bytes.Equal(got, space) {
		t.Errorf("the configuration space became %x, %v, want %x", got, err, space)
	}
	writes(0)
	g.leave()
}
