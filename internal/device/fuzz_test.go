package device

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/testleak"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
	"github.com/zvhost/zvhost/virtio/transport"
)

// Guest memory of FuzzExecute, one region of 32 KiB that everything lies in.
const (
	fuzzUser  = 0x5500_0000_0000
	fuzzSize  = 16     // entries of the ring
	fuzzHeads = 0x1000 // headers, 16 bytes each
	fuzzFoot  = 0x1800 // footers, 16 bytes each
	fuzzTable = 0x2000 // an indirect table
	fuzzData  = 0x3000
	fuzzEnd   = 0x8000
	fuzzReqs  = 8 // well-formed requests of one input
)

// fuzzZones is a small disk of every kind of zone; all executions share one.
var fuzzZones = zone.Geometry{
	CapacitySectors: 7*16 + 8, ZoneSectors: 16, ZoneCapacitySectors: 12, ConventionalZones: 1,
	MaxOpen: 2, MaxActive: 3, MaxAppendSectors: 8,
}

// FuzzExecute lets a guest do what it likes, from its rings to a real zoned
// image. Whatever it is: no panic, no hang, nothing left behind, each request
// that was taken is answered, and the image is whole afterwards.
//
// An input is a byte of modes, fuzzReqs requests of 5 bytes (type, zone, offset
// in it, length, shape), how many of them to publish, and then bytes that are
// put over guest memory, ring included: address (2), length (1), content.
func FuzzExecute(f *testing.F) {
	for _, s := range fuzzSeeds() {
		f.Add(s)
	}
	fresh := filepath.Join(f.TempDir(), "fresh.zvh")
	if err := image.Create(fresh, fuzzZones); err != nil {
		f.Fatal(err)
	}
	im, err := os.ReadFile(fresh)
	if err != nil {
		f.Fatal(err)
	}
	// In memory, where syncs cost nothing: they are most of the time otherwise.
	memfd, err := unix.MemfdCreate("disk.zvh", unix.MFD_CLOEXEC)
	if err != nil {
		f.Fatal(err)
	}
	path := fmt.Sprintf("/proc/self/fd/%d", memfd)
	f.Cleanup(func() { _ = unix.Close(memfd) })
	if err := os.WriteFile(path, im, 0o600); err != nil {
		f.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	log.SetLevel(logrus.DebugLevel)
	fds := [3]int{newEventFD(f), newEventFD(f), newEventFD(f)}
	rounds := 0
	f.Fuzz(func(t *testing.T, data []byte) {
		// Descriptors and mappings are counted now and then: it takes long.
		var before *testleak.Snapshot
		if rounds++; rounds%64 == 1 {
			s := testleak.Take()
			before = &s
		}
		dk, err := backend.Open(path, disk.Options{})
		if err != nil {
			t.Fatal(err)
		}
		dev, err := New(dk, Options{Queues: 1, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		fuzzOnce(t, dev, fds, data)
		if err := dev.Close(); err != nil {
			t.Fatal(err)
		}
		if err := dk.Close(); err != nil {
			t.Fatal(err)
		}
		if findings, err := image.Check(path); err != nil || len(findings) > 0 {
			t.Fatalf("%v, %v", findings, err)
		}
		if before != nil {
			for _, l := range before.WaitFiles() {
				t.Error(l)
			}
		}
	})
}

// fuzzOnce is one execution; fds are the ring's kick, call and err.
func fuzzOnce(t *testing.T, dev *Device, fds [3]int, data []byte) {
	take := func(n int) []byte {
		b := make([]byte, n)
		data = data[copy(b, data):]
		return b
	}
	mode := take(1)[0]
	features := dev.Features()
	for bit, feature := range []uint64{driver.FeatureEventIdx, driver.FeatureIndirectDesc, driver.BlkZoned, driver.BlkFlush, driver.BlkConfigWCE} {
		if mode>>bit&1 != 0 {
			features &^= feature
		}
	}
	packed := mode&0x40 != 0
	if !packed {
		features &^= driver.FeatureRingPacked
	}
	_ = dev.SetFeatures(features) // refused without ZONED, and used all the same
	if mode&0x20 != 0 {
		_ = dev.WriteConfig([]byte{0}, driver.WritebackOffset)
	}
	region := guestmem.Heap(guestmem.RegionDesc{GuestAddr: 0, Size: fuzzEnd, UserAddr: fuzzUser})
	mem, err := guestmem.New([]*guestmem.Region{region})
	if err != nil {
		t.Fatal(err)
	}
	ring, err := driver.NewRing(mem, 0, fuzzSize, features)
	if err != nil {
		t.Fatal(err)
	}
	all, _ := mem.Bytes(0, fuzzEnd)
	// A reset first, so that what a request meets hangs on the input alone.
	fuzzRequest(ring, all, fuzzReqs, []byte{byte(driver.TypeZoneResetAll), 0, 0, 0, 0})
	for i := range fuzzReqs {
		fuzzRequest(ring, all, i, take(5))
	}
	for range take(1)[0] & 3 {
		if b := take(1)[0]; packed {
			ring.SetPackedDesc(uint16(b&0xf), uint64(b)<<7, uint32(b), uint16(b>>4), 0x8080^uint16(b)<<7)
		} else {
			ring.PutAvail(uint16(b & 0x1f))
		}
	}
	layout := ring.Config()
	start := func(base uint32) error {
		return dev.StartQueue(0, transport.Ring{
			Size: fuzzSize, Desc: fuzzUser + layout.Desc, Avail: fuzzUser + layout.Avail, Used: fuzzUser + layout.Used,
			Base: base, Features: features, Mem: mem, Kick: fds[0], Call: fds[1], Err: fds[2],
		})
	}
	for len(data) > 3 {
		h := take(3)
		copy(all[min(int(binary.LittleEndian.Uint16(h)), fuzzEnd):], take(int(h[2]&0x3f)))
	}
	if err := start(ring.Base()); err != nil {
		t.Fatal(err)
	}
	ring.Publish()
	signalFD(fds[0])
	// Somewhere in the middle it is stopped and started again.
	base := dev.StopQueue(0, "fuzz")
	if err := start(base); err != nil {
		t.Fatal(err)
	}
	signalFD(fds[0])
	for range 4 {
		runtime.Gosched()
	}
	dev.StopQueue(0, "fuzz")
	dev.Reset()
}

// fuzzRequest puts a request into the ring, framed well: b is type, zone, offset
// in the zone, sectors, and shape.
func fuzzRequest(ring *driver.Ring, all []byte, i int, b []byte) {
	head, foot := uint64(fuzzHeads+16*i), uint64(fuzzFoot+16*i)
	typ := uint32(b[0] & 0x1f)
	driver.PutHeader(all[head:], typ, uint64(b[1]&0xf)*16+uint64(b[2]&0x1f))
	out := []driver.Buffer{{GuestAddr: head, Len: 16}}
	var in []driver.Buffer
	data := driver.Buffer{GuestAddr: fuzzData + uint64(b[4]>>4)*64, Len: uint32(b[3]&0x1f) * 512}
	switch {
	case typ == driver.TypeGetID:
		data.Len = driver.IDBytes
	case typ == driver.TypeZoneReport:
		data.Len = 64 * uint32(b[3]&0x1f)
	case typ == driver.TypeDiscard || typ == driver.TypeWriteZeroes:
		data.Len = driver.SegmentBytes
		driver.PutSegment(all[data.GuestAddr:], uint64(b[1])<<3|uint64(b[2]&7), uint32(b[3]), uint32(b[2]>>7))
	}
	if data.Len > 0 {
		if driver.DataIsWritten(typ) {
			in = append(in, data)
		} else {
			out = append(out, data)
		}
	}
	footer := driver.Buffer{GuestAddr: foot, Len: 1}
	if typ == driver.TypeZoneAppend {
		footer.Len = 9 + uint32(b[4]&7)
	}
	in = append(in, footer)
	if b[4]&8 != 0 {
		table := driver.Buffer{GuestAddr: fuzzTable + uint64(i)*256, Len: 256}
		_, _ = ring.AddIndirect(0, table, out, in, 0)
		return
	}
	_, _ = ring.Add(out, in, 0) // a full ring takes no more
}

// fuzzSeeds are requests of every type, and rings and descriptors overwritten.
func fuzzSeeds() (seeds [][]byte) {
	types := []uint32{driver.TypeIn, driver.TypeOut, driver.TypeFlush, driver.TypeZoneAppend, driver.TypeZoneOpen,
		driver.TypeZoneClose, driver.TypeZoneFinish, driver.TypeZoneReset, driver.TypeZoneResetAll, driver.TypeZoneReport,
		driver.TypeGetID, driver.TypeDiscard, driver.TypeWriteZeroes, 28}
	for mode := range byte(4) {
		for shape := range byte(2) {
			for from := 0; from < len(types); from += 3 {
				s := []byte{mode | shape<<5 | byte(from/3%2)<<6}
				for i := range fuzzReqs {
					typ := types[(from+i/2)%len(types)]
					if i%2 == 0 {
						typ = driver.TypeZoneAppend
					}
					s = append(s, byte(typ), byte(1+i%3), 0, 4, shape<<3|shape<<5)
				}
				seeds = append(seeds, append(s, 0))
			}
		}
	}
	for _, patch := range [][]byte{
		{0, 0, 16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, // a descriptor
		{14, 0, 2, 0, 0},            // a loop
		{0, 1, 4, 0, 0, 0xff, 0x7f}, // the available index
		{0, 0x10, 4, 14, 0, 0, 0},   // a header
		{8, 0, 4, 0xff, 0xff, 0, 0}, // a length
	} {
		s := append(append([]byte{}, seeds[0]...), patch...)
		seeds = append(seeds, s)
	}
	s := append([]byte{}, seeds[0][:len(seeds[0])-1]...)
	return append(seeds, append(s, 3, 0, 0, 0x1f))
}
