package backend

import (
	"encoding/binary"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// docs/image-format.md describes the superblock in a table. Each row must be
// where the image has it, and no field may be missing from the table.
func TestFormatIsAsDocumented(t *testing.T) {
	g := Geometry{
		CapacitySectors: 1 << 20, ZoneSectors: 1 << 12, ZoneCapacitySectors: 3 << 10, ConventionalZones: 5,
		MaxOpen: 7, MaxActive: 9, MaxAppendSectors: 1 << 9, BlockSize: 4096,
	}
	if err := g.Complete(); err != nil {
		t.Fatal(err)
	}
	l := newLayout(g)
	l.created = 0x5566_7788
	l.compat = 1<<40 | featureFaults
	for i := range l.uuid {
		l.uuid[i] = byte(i + 1)
	}
	b := l.encode()
	want := []struct {
		field string // how the row begins
		value uint64
	}{
		{"magic", binary.LittleEndian.Uint64([]byte(imageMagic))},
		{"format version", imageVersion},
		{"CRC-32C", uint64(checksum(b, 12))},
		{"UUID", 0}, // 16 bytes, looked at below
		{"incompatible features", 0},
		{"compatible features", l.compat},
		{"capacity", g.CapacitySectors},
		{"zone size", g.ZoneSectors},
		{"zone capacity", g.ZoneCapacitySectors},
		{"conventional zones", uint64(g.ConventionalZones)},
		{"logical block size", uint64(g.BlockSize)},
		{"open zones limit", uint64(g.MaxOpen)},
		{"active zones limit", uint64(g.MaxActive)},
		{"append limit", uint64(g.MaxAppendSectors)},
		{"offset of the live table", liveOff},
		{"offset of the committed table", uint64(l.tableOff)},
		{"offset of zone 0", uint64(l.dataOff)},
		{"time of creation", uint64(l.created)},
	}

	doc, err := os.ReadFile("../docs/image-format.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(doc), "### Superblock")
	section, _, _ = strings.Cut(section, "###")
	rows := regexp.MustCompile(`(?m)^\| (\d+) \| (\d+) \| (.*) \|$`).FindAllStringSubmatch(section, -1)
	if len(rows) != len(want) {
		t.Fatalf("the table has %d rows, the superblock %d fields", len(rows), len(want))
	}
	end := 0
	for i, row := range rows {
		off, _ := strconv.Atoi(row[1])
		size, _ := strconv.Atoi(row[2])
		if off != end {
			t.Errorf("row %q: at %d, but the one before it ends at %d", row[3], off, end)
		}
		end = off + size
		if !strings.HasPrefix(row[3], want[i].field) {
			t.Errorf("row %d is %q, want %q", i, row[3], want[i].field)
			continue
		}
		switch size {
		case 4:
			if got := uint64(binary.LittleEndian.Uint32(b[off:])); got != want[i].value {
				t.Errorf("%s: %#x in the image, want %#x", row[3], got, want[i].value)
			}
		case 8:
			if got := binary.LittleEndian.Uint64(b[off:]); got != want[i].value {
				t.Errorf("%s: %#x in the image, want %#x", row[3], got, want[i].value)
			}
		case 16:
			if [16]byte(b[off:end]) != l.uuid {
				t.Errorf("%s: %x in the image, want %x", row[3], b[off:end], l.uuid)
			}
		default:
			t.Errorf("%s: %d bytes", row[3], size)
		}
	}
	for i, c := range b[end:] {
		if c != 0 {
			t.Errorf("byte %d is %#x: a field that the table does not show", end+i, c)
			break
		}
	}
}
