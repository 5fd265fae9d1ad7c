package imagetest

import (
	"encoding/binary"
	"os"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/zone"
)

// Edit calls change with the open file and the layout of the image at path, without a lock.
func Edit(t disktest.TB, path string, change func(f *os.File, l *format.Layout)) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := format.ReadSuper(f)
	if err != nil {
		t.Fatal(err)
	}
	change(f, l)
}

// Patch writes b at off.
func Patch(t disktest.TB, f *os.File, b []byte, off int64) {
	t.Helper()
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// CutPower makes the image at path look as after a power cut and a reboot: another boot id,
// and a live table of which nobody knows what reached the disk.
func CutPower(t disktest.TB, path string) {
	t.Helper()
	Edit(t, path, func(f *os.File, l *format.Layout) {
		for i := range int64(2) {
			b := make([]byte, format.BlockBytes)
			if _, err := f.ReadAt(b, format.StateOff+i*format.BlockBytes); err != nil {
				t.Fatal(err)
			}
			s, err := format.DecodeState(b, l.UUID)
			if err != nil {
				continue
			}
			s.Where.Boot[3] ^= 0x55
			Patch(t, f, s.Encode(l.UUID), format.StateOff+i*format.BlockBytes)
		}
		if s, _, err := format.ReadState(f, l.UUID); err != nil || s.Clean {
			return // the live table was synced
		}
		live := make([]byte, 8*l.Zones())
		for i := range l.Zones() {
			// As if every zone had been filled and that alone had reached the disk.
			w := zone.Pack(i, zone.Full, l.Capacity(i))
			if l.Conventional(i) {
				w = zone.Pack(i, zone.NotWP, 0)
			}
			binary.LittleEndian.PutUint64(live[8*i:], uint64(w))
		}
		Patch(t, f, live, format.LiveOff)
	})
}

// writeCommitted makes words the newest committed table, behind blocks with these numbers.
func writeCommitted(t disktest.TB, f *os.File, l *format.Layout, words []zone.Entry, seqs []uint64) {
	t.Helper()
	for n, seq := range seqs {
		b := make([]byte, format.BlockBytes)
		format.EncodeBlock(b, n, seq+1, words[n*format.BlockZones:min((n+1)*format.BlockZones, len(words))])
		Patch(t, f, b, l.CopyOff(n, seq+1))
	}
}

// SetStates puts zones of a clean image into states that no request leads to.
func SetStates(t disktest.TB, path string, zones map[int]zone.State) {
	t.Helper()
	Edit(t, path, func(f *os.File, l *format.Layout) {
		words, seqs, _, err := format.ReadCommitted(f, l)
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range zones {
			words[i] = zone.Pack(i, s, words[i].Written())
			live := make([]byte, 8)
			binary.LittleEndian.PutUint64(live, uint64(words[i]))
			Patch(t, f, live, format.LiveOff+8*int64(i))
		}
		writeCommitted(t, f, l, words, seqs)
	})
}

// RawZone returns what the file holds for zone i.
func RawZone(t disktest.TB, path string, i int) (data []byte) {
	t.Helper()
	Edit(t, path, func(f *os.File, l *format.Layout) {
		data = make([]byte, l.Length(i)<<disk.SectorShift)
		if _, err := f.ReadAt(data, l.Offset(uint64(i)*l.ZoneSectors)); err != nil {
			t.Fatal(err)
		}
	})
	return data
}

// SetLive stores w as the live entry of zone i.
func SetLive(t *testing.T, f *os.File, i int, w zone.Entry) {
	t.Helper()
	Patch(t, f, binary.LittleEndian.AppendUint64(nil, uint64(w)), format.LiveOff+8*int64(i))
}

// SetEntries stores these entries, by zone, in both tables.
func SetEntries(t *testing.T, f *os.File, l *format.Layout, ws map[int]zone.Entry) {
	t.Helper()
	words, seqs, _, err := format.ReadCommitted(f, l)
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range ws {
		words[i] = w
		SetLive(t, f, i, w)
	}
	writeCommitted(t, f, l, words, seqs)
}

// EditSupers changes both copies of the superblock and corrects their checksums.
func EditSupers(t *testing.T, f *os.File, change func(b []byte)) {
	t.Helper()
	for _, off := range []int64{format.SuperOff, format.SuperCopyOff} {
		b := make([]byte, format.SuperBytes)
		if _, err := f.ReadAt(b, off); err != nil {
			t.Fatal(err)
		}
		change(b)
		binary.LittleEndian.PutUint32(b[12:], format.Checksum(b, 12))
		Patch(t, f, b, off)
	}
}
