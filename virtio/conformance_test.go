package virtio_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
)

// What docs/conformance.md lists and no other test shows.

// "A device MUST NOT write to a device-readable buffer", "a device MUST NOT write
// to any descriptor table entry" ("The Virtqueue Descriptor Table"); the available
// ring and indirect tables are the driver's too.
func TestDriversMemoryStays(t *testing.T) {
	b := newBlk(t, zonedDisk())
	for _, typ := range []uint32{driver.TypeIn, driver.TypeOut, driver.TypeFlush, driver.TypeGetID, driver.TypeZoneAppend, driver.TypeZoneReport, driver.TypeZoneReset, 99} {
		eachFraming(t, func(t *testing.T, framing string) {
			g := send(t, b, framing, typ, 2048, pattern(4096), 200)
			ring := g.ring.Config()
			writable := append([]driver.Buffer{{GuestAddr: ring.Used, Len: 4 + 8*uint32(ring.Size) + 2}}, g.in...)
			if strings.HasSuffix(framing, onPacked) {
				// The event structure, and length, id and flags of the used descriptor.
				writable = append([]driver.Buffer{{GuestAddr: ring.Used, Len: 4}, {GuestAddr: ring.Desc + 8, Len: 8}}, g.in...)
			}
			// All memory but what the device may write.
			snapshot := func() []byte {
				all := g.bytes(driver.Buffer{GuestAddr: ringAddr, Len: seam - ringAddr})
				all = bytes.Clone(all)
				for _, w := range writable {
					clear(all[w.GuestAddr-ringAddr:][:w.Len])
				}
				return all
			}
			before := snapshot()
			b.Decode(g.r)
			for _, err := range []error{nil, disk.ErrIO} {
				g.finish(err)
			}
			g.q.Push(g.r.Chain.Head, 1)
			g.q.Publish()
			g.q.EnableKicks()
			g.q.DisableKicks()
			if !bytes.Equal(before, snapshot()) {
				t.Errorf("type %d: memory of the driver's has changed", typ)
			}
		})
	}
}

// With EVENT_IDX "the device MUST ignore the lower bit of flags" ("Used Buffer
// Notification Suppression").
func TestCallsIgnoreFlagsWithEventIdx(t *testing.T) {
	g := newRig(t, 8, allRing, 0)
	g.use(1)
	g.q.Publish() // the first publication is a case of its own
	g.harvest()
	flags := g.bytes(driver.Buffer{GuestAddr: g.ring.Config().Avail, Len: 2})
	for i := range uint16(6) {
		wanted := i%3 == 0
		g.ring.SetUsedEvent(1 + i)
		if !wanted {
			g.ring.SetUsedEvent(i + 1000)
		}
		g.use(1)
		flags[0] = byte(i & 1) // VIRTQ_AVAIL_F_NO_INTERRUPT; the driver's side has just stored 0
		if got := g.q.Publish(); got != wanted {
			t.Errorf("flags %d, call wanted %v: call %v", flags[0], wanted, got)
		}
		g.harvest()
	}
}

// "The device MUST set len prior to updating the used idx", "the device MUST write
// at least len bytes to descriptor, beginning at the first device-writable buffer,
// prior to updating the used idx" ("The Virtqueue Used Ring").
func TestLengthBeforeIndex(t *testing.T) {
	b := newBlk(t, zonedDisk())
	s := send(t, b, "data in unequal pieces", driver.TypeZoneReport, 0, nil, 64*6+1)
	in, written := s.finish(s.r.Err)
	s.q.Push(s.r.Chain.Head, written)
	if id, n := s.ring.UsedEntry(0); s.ring.DeviceIdx() != 0 || id != uint32(s.r.Chain.Head) || n != 64*6+1 {
		t.Errorf("index %d, entry %d with %d bytes before Publish", s.ring.DeviceIdx(), id, n)
	}
	if n := bytes.Count(in, []byte{0xcc}); n != 0 {
		t.Errorf("%d of the bytes that the length counts were never written", n)
	}
	if s.q.Publish(); s.ring.DeviceIdx() != 1 {
		t.Errorf("index %d after Publish", s.ring.DeviceIdx())
	}
}

// "The device MUST allow reading of any device-specific configuration field before
// FEATURES_OK is set by the driver" ("Device Configuration Space"): and it reads
// the same after, whatever is negotiated; nobody is told of a change.
func TestConfigNeverChanges(t *testing.T) {
	for _, d := range []*fakeDisk{plainDisk(), zonedDisk()} {
		b, err := virtio.NewBlk(d, virtio.BlkOptions{Queues: 2})
		if err != nil {
			t.Fatal(err)
		}
		read := func() (c [virtio.BlkConfigBytes]byte) {
			if err := b.ReadConfig(c[:], 0); err != nil {
				t.Fatal(err)
			}
			return c
		}
		before := read()
		if err := b.SetFeatures(b.Features()); err != nil {
			t.Fatal(err)
		}
		d.info.CapacitySectors *= 2 // a disk that grew
		if read() != before {
			t.Error("the configuration space has changed with the negotiation, or with the disk")
		}
		if b.Reset(); read() != before {
			t.Error("the configuration space has changed with a reset")
		}
		b.SetCapacity(d.info.CapacitySectors)
		if after := read(); binary.LittleEndian.Uint64(after[:]) != d.info.CapacitySectors || !bytes.Equal(after[8:], before[8:]) {
			t.Errorf("a new size made %x of %x", after, before)
		}
	}
}

// A device offers nothing that needs what it does not offer, and no feature of
// what it does not have ("Feature Bits"; "Reserved Feature Bits").
func TestOfferIsWhole(t *testing.T) {
	readOnly, zeroes := zonedDisk(), zonedDiskWithZeroes()
	readOnly.info.ReadOnly = true
	const known = driver.FeatureVersion1 | driver.FeatureRingPacked | driver.FeatureIndirectDesc | driver.FeatureEventIdx |
		driver.BlkSizeMax | driver.BlkSegMax | driver.BlkRO | driver.BlkBlkSize | driver.BlkFlush | driver.BlkTopology |
		driver.BlkConfigWCE | driver.BlkMQ | driver.BlkDiscard | driver.BlkWriteZeroes | driver.BlkSecureErase | driver.BlkZoned
	for _, d := range []*fakeDisk{plainDisk(), zonedDisk(), readOnly, zeroes, zonedDiskWithErase()} {
		b, err := virtio.NewBlk(d, virtio.BlkOptions{Queues: 1})
		if err != nil {
			t.Fatal(err)
		}
		f := b.Features()
		if extra := f &^ known; extra != 0 {
			t.Errorf("offers %s", virtio.FeatureString(extra))
		}
		if f&driver.FeatureVersion1 == 0 || f&driver.BlkFlush == 0 {
			t.Errorf("VERSION_1 or FLUSH is missing: %s", virtio.FeatureString(f))
		}
	}
}
