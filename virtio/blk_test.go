package virtio_test

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
)

func TestNewBlkRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*fakeDisk, *virtio.BlkOptions)
		want string
	}{
		{"no queue", func(_ *fakeDisk, o *virtio.BlkOptions) { o.Queues = 0 }, "0 queues: must be 1 to 65535"},
		{"65536 queues", func(_ *fakeDisk, o *virtio.BlkOptions) { o.Queues = 65536 }, "must be 1 to 65535"},
		{"odd queue size", func(_ *fakeDisk, o *virtio.BlkOptions) { o.QueueSize = 100 }, "power of two"},
		{"tiny queue", func(_ *fakeDisk, o *virtio.BlkOptions) { o.QueueSize = 2 }, "from 4"},
		{"serial too long", func(_ *fakeDisk, o *virtio.BlkOptions) { o.Serial = strings.Repeat("x", 21) }, "at most 20"},
		{"serial not ASCII", func(_ *fakeDisk, o *virtio.BlkOptions) { o.Serial = "é" }, "printable ASCII"},
		{"serial with NUL", func(_ *fakeDisk, o *virtio.BlkOptions) { o.Serial = "a\x00b" }, "printable ASCII"},
		{"block size 0", func(d *fakeDisk, _ *virtio.BlkOptions) { d.info.LogicalBlockSize = 0 }, "logical block size"},
		{"block size 520", func(d *fakeDisk, _ *virtio.BlkOptions) { d.info.LogicalBlockSize = 520 }, "logical block size"},
		{"physical below logical", func(d *fakeDisk, _ *virtio.BlkOptions) { d.info.PhysicalBlockSize = 512 }, "physical block size"},
		{"zone size not a power of two", func(d *fakeDisk, _ *virtio.BlkOptions) { d.info.Zoned.ZoneSectors = 2047 }, "zone size"},
		{"zone size 0", func(d *fakeDisk, _ *virtio.BlkOptions) { d.info.Zoned.ZoneSectors = 0 }, "zone size"},
		{"zone size of 2^32", func(d *fakeDisk, _ *virtio.BlkOptions) { d.info.Zoned.ZoneSectors = 1 << 32 }, "zone size"},
		{"one zone too many", func(d *fakeDisk, _ *virtio.BlkOptions) { d.info.Zoned.Zones++ }, "do not make"},
		{"no append limit", func(d *fakeDisk, _ *virtio.BlkOptions) { d.info.Zoned.MaxAppendSectors = 0 }, "append limit"},
		{"append limit past seg_max * size_max", func(d *fakeDisk, o *virtio.BlkOptions) {
			d.info.Zoned.MaxAppendSectors, o.QueueSize = 3<<13, 4
		}, "must not exceed 2 segments"},
		{"no write granularity", func(d *fakeDisk, _ *virtio.BlkOptions) { d.info.Zoned.WriteGranularity = 0 }, "write granularity"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, o := zonedDisk(), virtio.BlkOptions{Queues: 1}
			c.edit(d, &o)
			_, err := virtio.NewBlk(d, o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v does not say %q", err, c.want)
			}
		})
	}
}

// "Feature bits" and "Device Initialization".
func TestFeatures(t *testing.T) {
	const always = driver.FeatureVersion1 | driver.FeatureRingPacked | driver.FeatureIndirectDesc | driver.FeatureEventIdx |
		driver.BlkSizeMax | driver.BlkSegMax | driver.BlkBlkSize | driver.BlkTopology | driver.BlkFlush | driver.BlkConfigWCE | driver.BlkMQ
	for _, c := range []struct {
		name string
		disk *fakeDisk
		edit func(*disk.Info)
		want uint64
	}{
		{"ordinary", plainDisk(), nil, always | driver.BlkDiscard | driver.BlkWriteZeroes},
		{"ordinary, nothing to discard", plainDisk(), func(i *disk.Info) { i.MaxDiscardSectors = 0 }, always | driver.BlkWriteZeroes},
		{"ordinary, no write zeroes", plainDisk(), func(i *disk.Info) { i.MaxWriteZeroesSectors = 0 }, always | driver.BlkDiscard},
		{"ordinary, read-only", plainDisk(), func(i *disk.Info) { i.ReadOnly = true }, always | driver.BlkRO},
		{"zoned", zonedDisk(), nil, always | driver.BlkZoned},
		{"zoned MUST NOT offer DISCARD", zonedDisk(), func(i *disk.Info) { i.MaxDiscardSectors = 8 }, always | driver.BlkZoned},
		{"zoned with write zeroes", zonedDisk(), func(i *disk.Info) { i.MaxWriteZeroesSectors = 8 }, always | driver.BlkZoned | driver.BlkWriteZeroes},
		{"zoned, read-only", zonedDisk(), func(i *disk.Info) { i.ReadOnly, i.MaxEraseSectors = true, 2048 }, always | driver.BlkZoned | driver.BlkRO},
		{"zoned with secure erase", zonedDiskWithErase(), nil, always | driver.BlkZoned | driver.BlkSecureErase},
		{"ordinary MUST NOT promise what it cannot", plainDisk(), func(i *disk.Info) { i.MaxEraseSectors = 2048 }, always | driver.BlkDiscard | driver.BlkWriteZeroes},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.edit != nil {
				c.edit(&c.disk.info)
			}
			b, err := virtio.NewBlk(c.disk, virtio.BlkOptions{Queues: 3})
			if err != nil {
				t.Fatal(err)
			}
			if got := b.Features(); got != c.want {
				t.Errorf("offers %s\nnot    %s", virtio.FeatureString(got), virtio.FeatureString(c.want))
			}
			if b.Queues() != 3 {
				t.Errorf("%d queues", b.Queues())
			}
		})
	}
}

func TestSplitRingsOnly(t *testing.T) {
	b, err := virtio.NewBlk(zonedDisk(), virtio.BlkOptions{Queues: 1, SplitRings: true})
	if err != nil {
		t.Fatal(err)
	}
	if f := b.Features(); f&driver.FeatureRingPacked != 0 || b.SetFeatures(f|driver.FeatureRingPacked) == nil {
		t.Errorf("offers %s", virtio.FeatureString(f))
	}
}

func TestSetFeatures(t *testing.T) {
	for _, c := range []struct {
		name string
		disk *fakeDisk
		edit func(offered uint64) uint64
		want string // "": accepted
	}{
		{"all", zonedDisk(), func(f uint64) uint64 { return f }, ""},
		{"only what zones need", zonedDisk(), func(uint64) uint64 { return driver.BlkZoned | driver.FeatureVersion1 }, ""},
		{"zoned MUST fail without ZONED", zonedDisk(), func(f uint64) uint64 { return f &^ driver.BlkZoned }, "vhost-user-test-device-pci"},
		{"zoned without anything", zonedDisk(), func(uint64) uint64 { return 0 }, "VIRTIO_BLK_F_ZONED (bit 17)"},
		{"zoned without VERSION_1", zonedDisk(), func(f uint64) uint64 { return f &^ driver.FeatureVersion1 }, "VIRTIO_F_VERSION_1 (bit 32)"},
		{"not offered", plainDisk(), func(f uint64) uint64 { return f | driver.BlkZoned | 1<<40 }, "not offered: ZONED|bit 40"},
		{"ordinary, none", plainDisk(), func(uint64) uint64 { return 0 }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := virtio.NewBlk(c.disk, virtio.BlkOptions{Queues: 1})
			if err != nil {
				t.Fatal(err)
			}
			err = b.SetFeatures(c.edit(b.Features()))
			if c.want == "" && err != nil {
				t.Fatal(err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Fatalf("error %v does not say %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Error("the error is more than one line")
			}
		})
	}
}

// "Device configuration layout", byte for byte.
func TestConfigGolden(t *testing.T) {
	ro := zonedDisk()
	ro.info.ReadOnly, ro.info.MaxEraseSectors = true, 2048
	for _, c := range []struct {
		name   string
		disk   *fakeDisk
		queues int
		want   string
	}{
		{"ordinary", plainDisk(), 4, `
			0000200000000000 00004000 7e000000
			00000000 00020000 03 00 0800 00000000
			01 00 0400
			00001000 20000000 08000000
			00000800 20000000 01 000000
			00000000 00000000 00000000
			00000000 00000000 00000000 00000000 00000000 00 000000`},
		{"zoned", zonedDisk(), 1, `
			0024000000000000 00004000 7e000000
			00000000 00100000 00 00 0100 00000000
			01 00 0100
			00000000 00000000 00000000
			00000000 00000000 00 000000
			00000000 00000000 00000000
			00080000 03000000 04000000 00010000 00100000 01 000000`},
		{"zoned with secure erase", zonedDiskWithErase(), 1, `
			0024000000000000 00004000 7e000000
			00000000 00100000 00 00 0100 00000000
			01 00 0100
			00000000 00000000 00000000
			00000000 00000000 00 000000
			00180000 20000000 00080000
			00080000 03000000 04000000 00010000 00100000 01 000000`},
		{"zoned, read-only", ro, 1, `
			0024000000000000 00004000 7e000000
			00000000 00100000 00 00 0100 00000000
			01 00 0100
			00000000 00000000 00000000
			00000000 00000000 00 000000
			00000000 00000000 00000000
			00080000 03000000 04000000 00010000 00100000 01 000000`},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := virtio.NewBlk(c.disk, virtio.BlkOptions{Queues: c.queues})
			if err != nil {
				t.Fatal(err)
			}
			want, err := hex.DecodeString(strings.Join(strings.Fields(c.want), ""))
			if err != nil || len(want) != virtio.BlkConfigBytes {
				t.Fatal(len(want), err)
			}
			got := make([]byte, virtio.BlkConfigBytes)
			if err := b.ReadConfig(got, 0); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(hex.Dump(want), hex.Dump(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The other side's reading of it.
func TestConfigParsed(t *testing.T) {
	b := newBlk(t, zonedDisk())
	var space [driver.BlkConfigBytes]byte
	if err := b.ReadConfig(space[:], 0); err != nil {
		t.Fatal(err)
	}
	got, err := driver.ParseBlkConfig(space[:])
	if err != nil {
		t.Fatal(err)
	}
	want := driver.BlkConfig{
		Capacity: 9216, SizeMax: 4 << 20, SegMax: 126, BlkSize: 4096, MinIOSize: 1, Writeback: 1, NumQueues: 2,
		ZoneSectors: 2048, MaxOpenZones: 3, MaxActiveZones: 4, MaxAppendSectors: 256, WriteGranularity: 4096, ZoneModel: 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Discards are aligned to what the disk can give back, where that is known, and never to
// less than a block; a disk that can give nothing back has none.
func TestDiscardGranularity(t *testing.T) {
	for _, c := range []struct{ granularity, block, most, want uint32 }{
		{0, 512, 8, 8}, {512, 512, 8, 1}, {64 << 10, 512, 8, 128}, {512, 4096, 8, 8}, {4096, 512, 0, 0},
	} {
		d := plainDisk()
		d.info.DiscardGranularity, d.info.LogicalBlockSize, d.info.MaxDiscardSectors = c.granularity, c.block, c.most
		b, err := virtio.NewBlk(d, virtio.BlkOptions{Queues: 1})
		if err != nil {
			t.Fatal(err)
		}
		var space [driver.BlkConfigBytes]byte
		if err := b.ReadConfig(space[:], 0); err != nil {
			t.Fatal(err)
		}
		got, err := driver.ParseBlkConfig(space[:])
		if err != nil || got.DiscardAlignment != c.want || (b.Features()&virtio.BlkFeatureDiscard != 0) != (c.most != 0) {
			t.Errorf("%+v: alignment %d, features %x, %v", c, got.DiscardAlignment, b.Features(), err)
		}
	}
}

// seg_max leaves room in the ring for header and status, and never exceeds what
// the device takes in one chain.
func TestSegMax(t *testing.T) {
	for size, want := range map[uint16]uint32{0: 126, 4: 2, 256: 254, 1024: 1022, 32768: 1022} {
		b, err := virtio.NewBlk(plainDisk(), virtio.BlkOptions{Queues: 1, QueueSize: size})
		if err != nil {
			t.Fatal(err)
		}
		var f [4]byte
		if err := b.ReadConfig(f[:], 12); err != nil {
			t.Fatal(err)
		}
		if got := uint32(f[0]) | uint32(f[1])<<8; got != want || f[2]|f[3] != 0 {
			t.Errorf("queue size %d: seg_max %d, not %d", size, got, want)
		}
	}
}

// Any offset and size inside the space, and nothing outside.
func TestConfigRanges(t *testing.T) {
	b := newBlk(t, plainDisk())
	var all [virtio.BlkConfigBytes]byte
	if err := b.ReadConfig(all[:], 0); err != nil {
		t.Fatal(err)
	}
	for off := range uint32(virtio.BlkConfigBytes + 3) {
		for n := range virtio.BlkConfigBytes + 3 {
			dst := make([]byte, n)
			inside := int(off)+n <= virtio.BlkConfigBytes
			if err := b.ReadConfig(dst, off); (err == nil) != inside {
				t.Fatalf("read of %d at %d: %v", n, off, err)
			}
			if inside && string(dst) != string(all[off:int(off)+n]) {
				t.Fatalf("read of %d at %d is not that part of the whole", n, off)
			}
			if !inside {
				if err := b.WriteConfig(dst, off); err == nil {
					t.Fatalf("write of %d at %d is accepted", n, off)
				}
			}
		}
	}
	if b.ReadConfig(all[:1], ^uint32(0)) == nil || b.WriteConfig(all[:1], ^uint32(0)) == nil {
		t.Error("an offset of 2^32-1 is accepted")
	}
}

// A write changes writeback only, wherever it begins and ends.
func TestWriteConfig(t *testing.T) {
	b := newBlk(t, plainDisk())
	read := func() (all [virtio.BlkConfigBytes]byte) {
		if err := b.ReadConfig(all[:], 0); err != nil {
			t.Fatal(err)
		}
		return all
	}
	for off := range uint32(virtio.BlkConfigBytes) {
		for n := 1; int(off)+n <= virtio.BlkConfigBytes; n++ {
			b.BeginFrontEnd()
			before := read()
			if err := b.SetFeatures(b.Features()); err != nil {
				t.Fatal(err)
			}
			src := make([]byte, n) // zeroes: write-through, wherever the field is in it
			for i := range src {
				if int(off)+i != driver.WritebackOffset {
					src[i] = 0xff
				}
			}
			if err := b.WriteConfig(src, off); err != nil {
				t.Fatal(err)
			}
			want := before
			covers := off <= driver.WritebackOffset && int(off)+n > driver.WritebackOffset
			if covers {
				want[driver.WritebackOffset] = 0
			}
			if got := read(); got != want || b.WriteThrough() != covers {
				t.Fatalf("a write of %d at %d left %x, write-through %v", n, off, got, b.WriteThrough())
			}
		}
	}
	if err := b.WriteConfig([]byte{1}, driver.WritebackOffset); err != nil || b.WriteThrough() {
		t.Errorf("back to write-back: %v", err)
	}
	if err := b.WriteConfig([]byte{2}, driver.WritebackOffset); err == nil || b.WriteThrough() {
		t.Error("writeback 2 is accepted")
	}
}

// The numbers on both sides come from the specification separately.
func TestNumbersAgree(t *testing.T) {
	for _, p := range [][2]uint64{
		{virtio.FeatureVersion1, driver.FeatureVersion1}, {virtio.FeatureEventIdx, driver.FeatureEventIdx}, {virtio.FeatureIndirectDesc, driver.FeatureIndirectDesc},
		{virtio.BlkFeatureSizeMax, driver.BlkSizeMax}, {virtio.BlkFeatureSegMax, driver.BlkSegMax}, {virtio.BlkFeatureRO, driver.BlkRO},
		{virtio.BlkFeatureBlkSize, driver.BlkBlkSize}, {virtio.BlkFeatureFlush, driver.BlkFlush}, {virtio.BlkFeatureTopology, driver.BlkTopology},
		{virtio.BlkFeatureConfigWCE, driver.BlkConfigWCE}, {virtio.BlkFeatureMQ, driver.BlkMQ}, {virtio.BlkFeatureDiscard, driver.BlkDiscard},
		{virtio.BlkFeatureWriteZeroes, driver.BlkWriteZeroes}, {virtio.BlkFeatureZoned, driver.BlkZoned},
		{uint64(zone.Conventional), driver.ZoneTypeConv}, {uint64(zone.SequentialWriteRequired), driver.ZoneTypeSWR},
		{uint64(zone.NotWP), driver.ZoneNotWP}, {uint64(zone.Empty), driver.ZoneEmpty}, {uint64(zone.ImpOpen), driver.ZoneImpOpen},
		{uint64(zone.ExpOpen), driver.ZoneExpOpen}, {uint64(zone.Closed), driver.ZoneClosed}, {uint64(zone.ReadOnly), driver.ZoneReadOnly},
		{uint64(zone.Full), driver.ZoneFull}, {uint64(zone.Offline), driver.ZoneOffline},
	} {
		if p[0] != p[1] {
			t.Errorf("%#x on one side, %#x on the other", p[0], p[1])
		}
	}
	if got := virtio.FeatureString(0); got != "none" {
		t.Errorf("no features: %q", got)
	}
}
