package virtio_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
)

// A state byte for byte: it goes from one version of zvhost to another.
func TestStateGolden(t *testing.T) {
	b := newBlk(t, zonedDisk())
	if err := b.WriteConfig([]byte{0}, driver.WritebackOffset); err != nil {
		t.Fatal(err)
	}
	want := "7a76686f73744453" + "02000000" + "40000000" + // zvhostDS, version, length
		"461e023005000000" + "0024000000000000" + "00100000" + // features, sectors, block
		"00080000" + "05000000" + "01" + strings.Repeat("00", 15)
	got := hex.EncodeToString(b.SaveState())
	if got[:120] != want {
		t.Errorf("have %s\nwant %s", got[:120], want)
	}
	if got[120:] != "818516e3" {
		t.Errorf("checksum %s", got[120:])
	}
}

// seal gives a state its checksum anew.
func seal(s []byte) []byte {
	binary.LittleEndian.PutUint32(s[60:], crc32.Checksum(s[:60], crc32.MakeTable(crc32.Castagnoli)))
	return s
}

// The cache mode travels, before and after features are agreed on at the other
// end, and nothing else changes there.
func TestStateTravels(t *testing.T) {
	for _, through := range []bool{false, true} {
		from := newBlk(t, plainDisk())
		if err := from.WriteConfig([]byte{map[bool]byte{true: 0, false: 1}[through]}, driver.WritebackOffset); err != nil {
			t.Fatal(err)
		}
		fresh, err := virtio.NewBlk(plainDisk(), virtio.BlkOptions{Queues: 1})
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range []*virtio.Blk{fresh, newBlk(t, plainDisk())} {
			if err := to.LoadState(from.SaveState()); err != nil {
				t.Fatal(err)
			}
			if err := to.SetFeatures(to.Features()); err != nil {
				t.Fatal(err)
			}
			if to.WriteThrough() != through {
				t.Errorf("write-through is %v", !through)
			}
			if !bytes.Equal(to.SaveState(), from.SaveState()) {
				t.Error("the state is another one at the other end")
			}
		}
	}
}

// Whatever is wrong with a state is said, and nothing of it is taken.
func TestStateRefused(t *testing.T) {
	good := newBlk(t, plainDisk()).SaveState()
	good[44] = 1
	seal(good)
	edit := func(f func(s []byte)) []byte {
		s := bytes.Clone(good)
		f(s)
		return s
	}
	other := plainDisk()
	other.info.CapacitySectors *= 2
	for _, c := range []struct {
		name  string
		state []byte
		want  string
	}{
		{"nothing", nil, "none of zvhost's"},
		{"another's", []byte("some other back-end's state, of any length"), "none of zvhost's"},
		{"cut short", good[:63], "63 bytes instead of 64"},
		{"cut very short", good[:16], "16 bytes instead of 64"},
		{"too long", append(bytes.Clone(good), 0), "65 bytes instead of 64"},
		{"a later version", seal(edit(func(s []byte) { s[8] = 3 })), "version 3, only 1 and 2 are known"},
		{"another length", seal(edit(func(s []byte) { s[12] = 65 })), "instead of 64"},
		{"damaged", edit(func(s []byte) { s[16] ^= 1 }), "checksum is wrong"},
		{"mode 2", seal(edit(func(s []byte) { s[44] = 2 })), "not defined"},
		{"reserved", seal(edit(func(s []byte) { s[59] = 1 })), "not defined"},
		{"features", seal(edit(func(s []byte) { s[16+5] = 1 })), "not offered here: bit 40"},
		{"a larger disk", newBlk(t, other).SaveState(), "it is of a disk of 4194304 sectors in blocks of 512 bytes, 0 zones of 0 sectors, but this one has 2097152 sectors"},
		{"a zoned disk", newBlk(t, zonedDisk()).SaveState(), "5 zones of 2048 sectors, but this one"},
	} {
		b := newBlk(t, plainDisk())
		if err := b.LoadState(c.state); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v does not say %q", c.name, err, c.want)
		}
		if b.WriteThrough() {
			t.Errorf("%s: taken all the same", c.name)
		}
	}
	if err := newBlk(t, plainDisk()).LoadState(good); err != nil {
		t.Error(err)
	}
}

// What an older zvhost has saved says what that did, not what it had shown: the mode
// is taken for write-through.
func TestOldStateIsInDoubt(t *testing.T) {
	s := newBlk(t, plainDisk()).SaveState()
	if s[44] != 0 {
		t.Fatal("it is write-through from the beginning")
	}
	for version, through := range map[byte]bool{1: true, 2: false} {
		s[8] = version
		b := newBlk(t, plainDisk())
		if err := b.LoadState(seal(s)); err != nil {
			t.Fatal(err)
		}
		if b.BeginRing(true); b.WriteThrough() != through {
			t.Errorf("version %d: write-through is %v", version, !through)
		}
	}
}

// A device that does not know what its driver was shown does not say that it does.
func TestDoubtTravels(t *testing.T) {
	from, err := virtio.NewBlk(plainDisk(), virtio.BlkOptions{Queues: 1})
	if err != nil {
		t.Fatal(err)
	}
	to := newBlk(t, plainDisk())
	if err := to.LoadState(from.SaveState()); err != nil || !to.WriteThrough() {
		t.Errorf("write-through %v, %v", to.WriteThrough(), err)
	}
}

// FuzzState loads anything: only what SaveState could have made is taken.
func FuzzState(f *testing.F) {
	device := func() *virtio.Blk {
		b, err := virtio.NewBlk(plainDisk(), virtio.BlkOptions{Queues: 1})
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	f.Add(device().SaveState(), false)
	f.Add(device().SaveState(), true)
	f.Add([]byte("zvhostDS"), true)
	f.Fuzz(func(t *testing.T, s []byte, sealed bool) {
		if sealed && len(s) == virtio.StateBytes {
			s = seal(bytes.Clone(s))
		}
		const versionAt, identityAt, promisedAt = 8, 24, 44
		for _, promised := range []bool{false, true} {
			b := device()
			b.RememberCacheMode(promised)
			was := b.SaveState()
			err := b.LoadState(s)
			now := b.SaveState()
			switch {
			case err != nil && !bytes.Equal(was, now):
				t.Errorf("%x was refused (%v), and changed %x into %x", s, err, was, now)
			case err != nil:
			case len(s) != virtio.StateBytes || !bytes.Equal(now[identityAt:promisedAt], s[identityAt:promisedAt]):
				t.Errorf("%x was taken, and made %x", s, now)
			case (promised || s[promisedAt] == 1 || s[versionAt] == 1) != (now[promisedAt] == 1):
				t.Errorf("%x was taken where write-through was promised: %v; now: %x", s, promised, now)
			}
		}
	})
}
