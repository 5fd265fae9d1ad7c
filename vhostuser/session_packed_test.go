package vhostuser

import (
	"testing"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

const packedFeatures = needed | FeatureProtocol | featureRingPacked

// negotiatePacked agrees on packed rings and gives the session 1 MiB of memory.
func (p *peer) negotiatePacked() {
	p.t.Helper()
	p.must(SetProtocolFeatures, AppendU64(nil, Offered))
	p.must(SetFeatures, AppendU64(nil, packedFeatures))
	p.must(SetMemTable, AppendMemTable(nil, []guestmem.RegionDesc{desc(0, 1<<20, 0)}), memFD(p.t, 1<<20))
	p.tells("features 0x500020000")
}

func vring(i, num uint32) []byte { return VringState{i, num}.Append(nil) }

// A packed ring: any size, its base with both wrap counters both ways, and its
// beginning where none was given ("Driver and Device Ring Wrap Counters": both
// begin at 1).
func TestSessionPackedRing(t *testing.T) {
	dev := new(fakeDevice)
	dev.progress = 5
	p := connect(t, dev)
	p.negotiatePacked()
	p.must(SetVringNum, vring(0, 63))
	at := uint64(userOffset)
	// The areas need 4 bytes each, and may lie at the very end of memory.
	p.must(SetVringAddr, VringAddr{Desc: at, Avail: at + 1<<20 - 4, Used: at + 1<<20 - 8}.Append(nil))
	p.must(SetVringEnable, vring(0, 1))
	p.kick(0)
	p.tells("start 0 at 2147516416") // 0x80008000
	if r := dev.ring(0); r.Size != 63 || r.Features != packedFeatures&^FeatureProtocol {
		t.Errorf("ring %+v", r)
	}
	if b, err := ParseVringState(p.call(GetVringBase, vring(0, 0))); err != nil || b.Num != 0x8005_8005 {
		t.Errorf("base %#x, %v", b.Num, err)
	}
	p.must(SetVringBase, vring(0, 0x0007_800c))
	p.kick(0)
	if r := dev.ring(0); r.Base != 0x0007_800c {
		t.Errorf("started at %#x", r.Base)
	}
	if b, _ := ParseVringState(p.call(GetVringBase, vring(0, 0))); b.Num != 0x000c_8011 {
		t.Errorf("base %#x", b.Num)
	}
	// A reset forgets it.
	p.must(ResetDevice, nil)
	p.must(SetFeatures, AppendU64(nil, packedFeatures))
	if b, _ := ParseVringState(p.call(GetVringBase, vring(0, 0))); b.Num != 0x8000_8000 {
		t.Errorf("base %#x after a reset", b.Num)
	}
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// What the front-end says of its rings before it takes features is held against
// them when it does.
func TestSessionPackedBeforeFeatures(t *testing.T) {
	for _, c := range []struct {
		name     string
		num      uint32
		base     uint32
		avail    uint64 // where, beside ringAddr's
		features uint64
		told     string
	}{
		{"packed", 63, 0x8000_8000, 0, packedFeatures, "features 0x500020000; start 0 at 2147516416"},
		{"split", 64, 9, 2, needed | FeatureProtocol, "features 0x100020000; start 0 at 9"},
		{"area not aligned for a packed ring", 64, 0x8000_8000, 2, packedFeatures, "features 0x500020000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dev := new(fakeDevice)
			p := connect(t, dev)
			p.must(SetProtocolFeatures, AppendU64(nil, Offered))
			p.must(SetMemTable, AppendMemTable(nil, []guestmem.RegionDesc{desc(0, 1<<20, 0)}), memFD(t, 1<<20))
			p.must(SetVringNum, vring(0, c.num))
			p.must(SetVringBase, vring(0, c.base))
			a := ringAddr(0)
			a.Avail += c.avail
			p.must(SetVringAddr, a.Append(nil))
			p.must(SetVringEnable, vring(0, 1))
			p.kick(0)
			if c.told == "features 0x500020000" {
				p.mustNot("driver event suppression at user address 0x7f0000000402 is mapped unaligned", SetFeatures, AppendU64(nil, c.features))
			} else {
				p.must(SetFeatures, AppendU64(nil, c.features))
			}
			p.tells(c.told)
			if err := p.leave(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// What no packed ring is like.
func TestSessionPackedRefuses(t *testing.T) {
	p := connect(t, new(fakeDevice))
	p.negotiatePacked()
	p.mustNot("1 to 32768", SetVringNum, vring(0, 0))
	p.mustNot("1 to 32768", SetVringNum, vring(0, 32769))
	p.must(SetVringNum, vring(0, 32768))
	p.must(SetVringNum, vring(0, 100))
	p.must(SetVringEnable, vring(0, 1))
	p.kick(0)
	at := uint64(userOffset)
	for words, a := range map[string]VringAddr{
		"its descriptor ring: user address":                 {Desc: at + 1<<20 - 1584, Avail: at, Used: at},
		"its driver event suppression: user address":        {Desc: at, Avail: at + 1<<20, Used: at},
		"its device event suppression: user address":        {Desc: at, Avail: at, Used: at + 1<<20},
		"its driver event suppression at user address 0x7f": {Desc: at, Avail: at + 6, Used: at},
		"used at 0x7f0000000002 (4)":                        {Desc: at, Avail: at, Used: at + 2},
		"descriptors at 0x7f0000000008 (16)":                {Desc: at + 8, Avail: at, Used: at},
	} {
		p.mustNot(words, SetVringAddr, a.Append(nil))
	}
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}
