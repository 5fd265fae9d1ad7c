package virtio_test

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/testleak"
	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

func TestMain(m *testing.M) { testleak.Main(m) }

// Where things are in a rig's guest memory. Two regions follow each other at
// seam; behind the second is nothing.
const (
	ringAddr  = 0x10000 // guest-physical
	seam      = 0x80000
	memEnd    = 0x100000
	userDelta = 0x7f00_0000_0000 // user address less guest address
)

// newMemory makes heap memory, which the race detector watches.
func newMemory(t testing.TB) *guestmem.Memory {
	t.Helper()
	m, err := guestmem.New([]*guestmem.Region{
		guestmem.Heap(guestmem.RegionDesc{GuestAddr: ringAddr, Size: seam - ringAddr, UserAddr: ringAddr + userDelta}),
		guestmem.Heap(guestmem.RegionDesc{GuestAddr: seam, Size: memEnd - seam, UserAddr: seam + userDelta}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// fileMemory maps n bytes of a file at guest address 0.
func fileMemory(t testing.TB, n uint64) (mem *guestmem.Memory, fd int) {
	t.Helper()
	fd, err := unix.MemfdCreate("virtio-test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Ftruncate(fd, int64(n)); err != nil {
		t.Fatal(err)
	}
	region, err := guestmem.Map(fd, guestmem.RegionDesc{Size: n, UserAddr: userDelta})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := region.Unmap(); err != nil {
			t.Error(err)
		}
	})
	if mem, err = guestmem.New([]*guestmem.Region{region}); err != nil {
		t.Fatal(err)
	}
	return mem, fd
}

// A rig is a ring with both its ends.
type rig struct {
	t    testing.TB
	mem  *guestmem.Memory
	ring *driver.Ring
	q    virtio.Queue
	next uint64 // guest memory not yet given out
}

const (
	allRing   = virtio.FeatureVersion1 | virtio.FeatureIndirectDesc | virtio.FeatureEventIdx
	allPacked = allRing | virtio.FeatureRingPacked
)

func newRig(t testing.TB, size uint16, features uint64, start uint16) *rig {
	t.Helper()
	g := &rig{t: t, mem: newMemory(t), next: ringAddr + driver.RingBytes(size)}
	var err error
	if g.ring, err = driver.NewRing(g.mem, ringAddr, size, features); err != nil {
		t.Fatal(err)
	}
	g.ring.StartAt(baseOf(size, features, start))
	if g.q, err = virtio.NewQueue(ringConfig(g.mem, g.ring, features)); err != nil {
		t.Fatal(err)
	}
	return g
}

// baseOf makes a base of an available index: where a ring is after so many
// chains of one descriptor.
func baseOf(size uint16, features uint64, start uint16) uint32 {
	if features&driver.FeatureRingPacked == 0 {
		return uint32(start)
	}
	base := uint32(start % size)
	if start/size%2 == 0 {
		base |= 1 << 15
	}
	return base | base<<16
}

// ringConfig is for a device that begins where the ring is now.
func ringConfig(mem *guestmem.Memory, ring *driver.Ring, features uint64) virtio.RingConfig {
	l := ring.Config()
	return virtio.RingConfig{
		Size: l.Size, Desc: l.Desc + userDelta, Avail: l.Avail + userDelta, Used: l.Used + userDelta,
		Base: ring.Base(), Features: features, Mem: mem,
	}
}

// alloc gives out n bytes of guest memory, filled with 0xcc.
func (g *rig) alloc(n int) driver.Buffer {
	g.t.Helper()
	b := driver.Buffer{GuestAddr: g.next, Len: uint32(n)}
	if n > 0 {
		mem := g.bytes(b)
		for i := range mem {
			mem[i] = 0xcc
		}
	}
	g.next += uint64(n)
	return b
}

func (g *rig) bytes(b driver.Buffer) []byte {
	g.t.Helper()
	if b.Len == 0 {
		return nil
	}
	mem, err := g.mem.Bytes(b.GuestAddr, uint64(b.Len))
	if err != nil {
		g.t.Fatal(err)
	}
	return mem
}

// split lays data out in guest memory, in pieces of the given sizes; the rest of
// it is the last piece. A piece may be empty.
func (g *rig) split(data []byte, sizes ...int) []driver.Buffer {
	g.t.Helper()
	var bufs []driver.Buffer
	put := func(b []byte) {
		buf := g.alloc(len(b))
		copy(g.bytes(buf), b)
		bufs = append(bufs, buf)
		g.alloc(3) // so that pieces are not neighbours
	}
	for _, n := range sizes {
		n = min(n, len(data))
		put(data[:n])
		data = data[n:]
	}
	if len(data) > 0 {
		put(data)
	}
	return bufs
}

// gather is what stands in buffers.
func (g *rig) gather(bufs []driver.Buffer) []byte {
	var all bytes.Buffer
	for _, b := range bufs {
		all.Write(g.bytes(b))
	}
	return all.Bytes()
}

// pop takes one chain that must be there.
func (g *rig) pop(c *virtio.Chain) {
	g.t.Helper()
	if ok, err := g.q.Pop(c); !ok || err != nil {
		g.t.Fatalf("Pop: %v, %v", ok, err)
	}
}

// used harvests one used entry that must be there.
func (g *rig) used() driver.Used {
	g.t.Helper()
	u, ok := g.ring.Next()
	if !ok {
		g.t.Fatalf("no used entry: %v", g.ring.Err())
	}
	return u
}

// A fakeDisk says what it is; it carries nothing out.
type fakeDisk struct {
	disk.Disk
	info  disk.Info
	zones []zone.Descriptor
}

func (d *fakeDisk) Info() disk.Info                  { return d.info }
func (d *fakeDisk) ReportZone(i int) zone.Descriptor { return d.zones[i] }

// plainDisk is an ordinary disk of 1 GiB.
func plainDisk() *fakeDisk {
	return &fakeDisk{info: disk.Info{
		CapacitySectors: 1 << 21, LogicalBlockSize: 512, PhysicalBlockSize: 4096,
		MaxDiscardSectors: 1 << 20, MaxWriteZeroesSectors: 1 << 19,
	}}
}

// zonedDisk has 5 zones of 2048 sectors, 1536 of them writable, the first one
// conventional and the last one smaller.
func zonedDisk() *fakeDisk {
	d := &fakeDisk{info: disk.Info{
		CapacitySectors: 4*2048 + 1024, LogicalBlockSize: 4096, PhysicalBlockSize: 4096,
		Zoned: &disk.ZonedInfo{Zones: 5, ZoneSectors: 2048, MaxOpen: 3, MaxActive: 4, MaxAppendSectors: 256, WriteGranularity: 4096},
	}}
	d.zones = []zone.Descriptor{
		{Start: 0, Length: 2048, Capacity: 2048, WP: 2048, Type: zone.Conventional, State: zone.NotWP},
		{Start: 2048, Length: 2048, Capacity: 1536, WP: 2048, Type: zone.SequentialWriteRequired, State: zone.Empty},
		{Start: 4096, Length: 2048, Capacity: 1536, WP: 4104, Type: zone.SequentialWriteRequired, State: zone.ImpOpen},
		{Start: 6144, Length: 2048, Capacity: 1536, WP: 8192, Type: zone.SequentialWriteRequired, State: zone.Full},
		{Start: 8192, Length: 1024, Capacity: 1024, WP: 8200, Type: zone.SequentialWriteRequired, State: zone.Offline},
	}
	return d
}

// newBlk makes a device whose driver has read the configuration space and taken every
// feature.
func newBlk(t testing.TB, d *fakeDisk) *virtio.Blk {
	t.Helper()
	b, err := virtio.NewBlk(d, virtio.BlkOptions{Queues: 2, Serial: "zv0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.ReadConfig(make([]byte, virtio.BlkConfigBytes), 0); err != nil {
		t.Fatal(err)
	}
	if err := b.SetFeatures(b.Features()); err != nil {
		t.Fatal(err)
	}
	return b
}
