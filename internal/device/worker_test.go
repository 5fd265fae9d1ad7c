package device

import (
	"bytes"
	"testing"

	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// smallZones is 8 zones of 64 KiB with 48 KiB to write, the first conventional,
// in blocks of 4 KiB.
var smallZones = zone.Geometry{
	CapacitySectors: 1024, ZoneSectors: 128, ZoneCapacitySectors: 96, ConventionalZones: 1,
	MaxOpen: 2, MaxActive: 3, MaxAppendSectors: 64, BlockSize: 4096,
}

// rings are the ways to negotiate a ring.
var rings = map[string]frontend.Options{
	"event index, indirect":            {},
	"event index, direct":              {Without: driver.FeatureIndirectDesc},
	"no event index, indirect":         {Without: driver.FeatureEventIdx},
	"no event index, direct":           {Without: driver.FeatureEventIdx | driver.FeatureIndirectDesc},
	"no protocol features at all":      {Without: 1 << 30},
	"packed, event index, indirect":    {Packed: true},
	"packed, event index, direct":      {Packed: true, Without: driver.FeatureIndirectDesc},
	"packed, no event index, indirect": {Packed: true, Without: driver.FeatureEventIdx},
	"packed, no event index, direct":   {Packed: true, Without: driver.FeatureEventIdx | driver.FeatureIndirectDesc},
}

func firstOf[T any](_ T, err error) error { return err }

// The requests of an ordinary disk, end to end. Those of zoned disks are
// integration/suite's.
func TestPlainRequests(t *testing.T) {
	for name, o := range rings {
		t.Run(name, func(t *testing.T) {
			r := plainRig(t, 1)
			g := r.connect(o)
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

// An engine that the kernel takes no more from ends its queue, visibly: what is in
// flight is answered, and the daemon goes on.
func TestEngineEnds(t *testing.T) {
	r := plainRig(t, 1)
	gate := r.newGate()
	g := r.connect(frontend.Options{})
	errs := g.errFD(0)
	g.want("write", driver.StatusOK, g.Queue(0).Write(pattern(4096, 1), 0))
	gate.ended.Store(true)
	g.kick(0)
	readable(t, "the err eventfd", errs)
	r.logged("queue 0 is broken")
	r.logged("the kernel carries out no more of its I/O: bad file descriptor")
	if !r.dev.NeedsReset() {
		t.Error("the device needs no reset")
	}
	gate.ended.Store(false)
	g.vanish()
	r.nextIsServed()
}

// Write-through makes writes stable before they are answered, which shows here
// as a sync behind each; write-back does not.
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
			t.Errorf("%d syncs behind a write, want %d", got, want)
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
