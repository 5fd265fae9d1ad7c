package image_test

import (
	"encoding/binary"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/backend"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/image/imagetest"
)

// docs/image-format.md describes the block of faults in a table. Each row must be
// where the image has it.
func TestFaultsBlockIsAsDocumented(t *testing.T) {
	l := format.NewLayout(disktest.Small)
	for i := range l.UUID {
		l.UUID[i] = byte(i + 1)
	}
	faults := []disk.Fault{{Kind: disk.FaultRead}, {Kind: disk.FaultWrite, Place: disk.InZones, First: 5, Last: 5, Times: 1, After: 16}}
	const text = "read\nwrite,zone=5,once,after=16\n"
	b, err := format.EncodeFaults(faults, l.UUID)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../../docs/image-format.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := "| 12 KiB | faults"; format.FaultsOff != 12<<10 || !strings.Contains(string(doc), want) {
		t.Errorf("no %q in the layout", want)
	}
	_, section, _ := strings.Cut(string(doc), "### Faults")
	section, _, _ = strings.Cut(section, "\n## ")
	rows := regexp.MustCompile(`(?m)^\| (\d+) \| (\d+) \| (.*) \|$`).FindAllStringSubmatch(section, -1)
	want := []struct {
		field string
		is    func([]byte) bool
	}{
		{"magic `" + format.FaultsMagic + "`", func(b []byte) bool { return string(b) == format.FaultsMagic }},
		{"CRC-32C", func(f []byte) bool { return binary.LittleEndian.Uint32(f) == format.Checksum(b, 8) }},
		{"length of the text", func(b []byte) bool { return binary.LittleEndian.Uint32(b) == uint32(len(text)) }},
		{"UUID", func(b []byte) bool { return [16]byte(b) == l.UUID }},
		{"the text", func(b []byte) bool { return string(b[:len(text)+1]) == text+"\x00" }},
	}
	if len(rows) != len(want) {
		t.Fatalf("the table has %d rows, the block %d fields", len(rows), len(want))
	}
	end := 0
	for i, row := range rows {
		off, _ := strconv.Atoi(row[1])
		size, _ := strconv.Atoi(row[2])
		if off != end || !strings.HasPrefix(row[3], want[i].field) || !want[i].is(b[off:off+size]) {
			t.Errorf("row %d, %q: not what stands in the image", i, row[3])
		}
		end = off + size
	}
	if end != len(b) {
		t.Errorf("the table ends at %d, the block at %d", end, len(b))
	}
}

// A damaged block of faults is found and refused: an image that was made to fail
// must not be served as if it were well.
func TestFaultsBlockGoneBad(t *testing.T) {
	good, err := format.EncodeFaults([]disk.Fault{{Kind: disk.FaultFlush}}, [16]byte{})
	if err != nil {
		t.Fatal(err)
	}
	seal := func(b []byte, uuid [16]byte) []byte {
		copy(b[16:], uuid[:])
		binary.LittleEndian.PutUint32(b[8:], format.Checksum(b, 8))
		return b
	}
	for want, damage := range map[string]func(b []byte, uuid [16]byte) []byte{
		"it does not start like one":    func(b []byte, _ [16]byte) []byte { return make([]byte, len(b)) },
		"its checksum is wrong":         func(b []byte, _ [16]byte) []byte { b[4000]++; return b },
		"it belongs to another image":   func(b []byte, _ [16]byte) []byte { return b },
		"it says that it has":           func(b []byte, u [16]byte) []byte { b[14] = 1; return seal(b, u) },
		`"flusx" is no kind of fault`:   func(b []byte, u [16]byte) []byte { b[36] = 'x'; return seal(b, u) },
		"zone 99 is beyond the last":    func(b []byte, u [16]byte) []byte { copy(b[32:], "read,zone=99"); b[12] = 12; return seal(b, u) },
		`"\x1b[2J" is no kind of fault`: func(b []byte, u [16]byte) []byte { copy(b[32:], "\x1b[2J\n"); b[12] = 5; return seal(b, u) },
	} {
		path := t.TempDir() + "/disk.zvh"
		if err := image.CreateWith(path, disktest.Small, image.Start{Faults: []disk.Fault{{Kind: disk.FaultFlush}}}); err != nil {
			t.Fatal(err)
		}
		imagetest.Edit(t, path, func(f *os.File, l *format.Layout) {
			b := append([]byte(nil), good...)
			if !strings.Contains(want, "checksum") {
				b = damage(b, l.UUID)
			} else {
				b = damage(seal(b, l.UUID), l.UUID)
			}
			imagetest.Patch(t, f, b, format.FaultsOff)
		})
		findings, err := image.Check(path)
		if err != nil || len(findings) != 1 || findings[0].Where != "faults" || !strings.Contains(findings[0].What, want) || strings.ContainsAny(findings[0].What, "\n\x1b") {
			t.Errorf("found %q, %v; want %q", findings, err, want)
		}
		if d, err := backend.Open(path, disk.Options{}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "run 'zvhost check") {
			t.Errorf("open: %v; want %q", err, want)
			if err == nil {
				_ = d.Close()
			}
		}
		// What is damaged can be done without, but nothing else is thrown away.
		damaged := strings.HasPrefix(findings[0].What, "damaged: ")
		mended, err := image.Repair(path, image.RepairSafe)
		if err != nil || (len(mended) == 1) != damaged {
			t.Errorf("%s: repaired %q, %v", want, mended, err)
		}
		if damaged {
			imagetest.WantClean(t, path)
			d := openDisk(t, path)
			if faults := d.Faults().List(); len(faults) != 0 {
				t.Errorf("%s: %v are left", want, faults)
			}
			imagetest.CloseDisk(t, d, path)
		}
		// Who does not know the feature does not look.
		imagetest.Edit(t, path, func(f *os.File, _ *format.Layout) {
			imagetest.EditSupers(t, f, func(b []byte) { binary.LittleEndian.PutUint64(b[40:], 1<<63) })
		})
		imagetest.CloseDisk(t, openDisk(t, path), path)
	}
}

// Whatever stands in the block: it is refused, or read as faults that the disk
// can have and that are written as they were read.
func FuzzFaultsBlock(f *testing.F) {
	f.Add("read\nwrite,zone=5,once,after=16\n", uint32(32))
	f.Add("latency=1ms", uint32(11))
	f.Add("\n", uint32(1))
	f.Add("full,left=1M\n", uint32(4064))
	l := format.NewLayout(disktest.Small)
	f.Fuzz(func(t *testing.T, text string, n uint32) {
		b := make([]byte, format.BlockBytes)
		copy(b, format.FaultsMagic)
		binary.LittleEndian.PutUint32(b[12:], n)
		copy(b[format.FaultsHeader:], text)
		binary.LittleEndian.PutUint32(b[8:], format.Checksum(b, 8))
		faults, err := format.DecodeFaults(b, &l)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("an error of more than a line: %q", err)
			}
			return
		}
		again, err := format.EncodeFaults(faults, l.UUID)
		if err != nil {
			return // words that say the same in more letters
		}
		if same, err := format.DecodeFaults(again, &l); err != nil || !slices.Equal(same, faults) {
			t.Errorf("%v is read as %v, %v", faults, same, err)
		}
		d := disk.Faults{Info: disk.Describe(&l.Geometry, false)}
		if _, err := d.Add(faults...); err != nil && len(faults) <= disk.MaxFaults {
			t.Error(err)
		}
	})
}
