package image_test

import (
	"encoding/binary"
	"os"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/backend"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// damage is one way to break an image that was closed cleanly, and what the
// checker has to say to it.
type damage struct {
	name string
	do   func(*testing.T, *os.File, *format.Layout)
	want string // in one of the findings
	open string // in the error of Open; empty when the image can be opened all the same
}

var damages = []damage{
	{"superblock", func(t *testing.T, f *os.File, _ *format.Layout) { imagetest.Patch(t, f, []byte("x"), 50) },
		"superblock: the superblock's checksum is wrong", "its copy is whole; run 'zvhost check --repair'"},
	{"superblock wiped", func(t *testing.T, f *os.File, _ *format.Layout) { imagetest.Patch(t, f, make([]byte, 4096), 0) },
		"superblock: not a zvhost image", "the superblock is damaged"},
	{"copy of the superblock", func(t *testing.T, f *os.File, _ *format.Layout) {
		imagetest.Patch(t, f, []byte("x"), format.SuperCopyOff+50)
	},
		"copy of the superblock: the superblock's checksum is wrong", ""},
	{"copies differ", func(t *testing.T, f *os.File, l *format.Layout) {
		other := *l
		other.MaxOpen++
		imagetest.Patch(t, f, other.EncodeSuper(), format.SuperCopyOff)
	}, "copy of the superblock: differs from the superblock in open zones limit", "the superblock and its copy differ in open zones limit"},
	{"both superblocks", func(t *testing.T, f *os.File, _ *format.Layout) {
		imagetest.Patch(t, f, []byte("x"), 50)
		imagetest.Patch(t, f, []byte("x"), format.SuperCopyOff+50)
	}, "copy of the superblock: the superblock's checksum is wrong", "checksum is wrong; run 'zvhost check'"},
	{"newer format", func(t *testing.T, f *os.File, _ *format.Layout) {
		imagetest.EditSupers(t, f, func(b []byte) { b[8] = 2 })
	}, "format version 2: this zvhost knows version 1 only", "format version 2"},
	{"unknown feature", func(t *testing.T, f *os.File, _ *format.Layout) {
		imagetest.EditSupers(t, f, func(b []byte) { b[33] = 1 })
	}, "uses features 0x100", "uses features 0x100"},
	{"both superblocks wiped", func(t *testing.T, f *os.File, _ *format.Layout) {
		imagetest.Patch(t, f, make([]byte, 4096), format.SuperOff)
		imagetest.Patch(t, f, make([]byte, 4096), format.SuperCopyOff)
	}, "superblock: not a zvhost image", "not a zvhost image"},
	{"impossible geometry", func(t *testing.T, f *os.File, _ *format.Layout) {
		imagetest.EditSupers(t, f, func(b []byte) { b[56] = 3 })
	}, "not sensible: zone size", "not sensible"},
	{"other offsets", func(t *testing.T, f *os.File, _ *format.Layout) {
		imagetest.EditSupers(t, f, func(b []byte) { b[114]++ })
	}, "offsets do not fit", "offsets do not fit"},
	{"cut short in the data", func(t *testing.T, f *os.File, l *format.Layout) {
		if err := f.Truncate(l.FileBytes() - 1); err != nil {
			t.Fatal(err)
		}
	}, "it was cut short", "it was cut short"},
	{"cut short in the tables", func(t *testing.T, f *os.File, l *format.Layout) {
		if err := f.Truncate(l.TableOff + 100); err != nil {
			t.Fatal(err)
		}
	}, "it was cut short", "it was cut short"},
	{"state blocks", func(t *testing.T, f *os.File, _ *format.Layout) {
		imagetest.Patch(t, f, []byte("x"), format.StateOff+9)
		imagetest.Patch(t, f, []byte("x"), format.StateOff+format.BlockBytes)
	}, "state block 0: its checksum is wrong", "both state blocks are damaged"},
	{"state blocks of another image", func(t *testing.T, f *os.File, l *format.Layout) {
		for i := range int64(2) {
			s := format.StateBlock{Seq: uint64(i + 1), Clean: true}
			imagetest.Patch(t, f, s.Encode([16]byte{1}), format.StateOff+i*format.BlockBytes)
		}
	}, "state block 1: it belongs to another image", "both state blocks are damaged"},
	{"state blocks out of turn", func(t *testing.T, f *os.File, l *format.Layout) {
		for i := range int64(2) {
			s := format.StateBlock{Seq: uint64(10 + i), Clean: true}
			imagetest.Patch(t, f, s.Encode(l.UUID), format.StateOff+i*format.BlockBytes)
		}
	}, "state block 0: its sequence number 10 does not belong there", "both state blocks are damaged"},
	{"one copy of a table block", func(t *testing.T, f *os.File, l *format.Layout) {
		imagetest.Patch(t, f, []byte("x"), l.TableOff+format.BlockBytes+77)
	}, "committed zone table, block 0, copy 1: its checksum is wrong", ""},
	{"both copies of a table block", func(t *testing.T, f *os.File, l *format.Layout) {
		imagetest.Patch(t, f, []byte("x"), l.TableOff+77)
		imagetest.Patch(t, f, make([]byte, 4096), l.TableOff+format.BlockBytes)
	}, `block 0, copy 1: it does not start with "ZVTB"`, "both copies of block 0"},
	{"table block in another's place", func(t *testing.T, f *os.File, l *format.Layout) {
		for i := range int64(2) {
			b := make([]byte, format.BlockBytes)
			format.EncodeBlock(b, 7, uint64(2-i), []zone.Entry{1})
			imagetest.Patch(t, f, b, l.TableOff+i*format.BlockBytes)
		}
	}, "block 0, copy 0: it says it is block 7", "both copies of block 0"},
	{"committed pointer above the capacity", func(t *testing.T, f *os.File, l *format.Layout) {
		imagetest.SetEntries(t, f, l, map[int]zone.Entry{4: zone.Pack(4, zone.Closed, 97)})
	}, "committed zone table entry 4: write pointer at sector 97 of the zone, above its capacity of 96", "committed zone table entry 4"},
	{"live entry scribbled over", func(t *testing.T, f *os.File, _ *format.Layout) { imagetest.SetLive(t, f, 3, 0x1234) },
		"live zone table, zone 3: check 0x0000 does not match", "zone table entry 3"},
	{"live pointer above the capacity", func(t *testing.T, f *os.File, _ *format.Layout) {
		imagetest.SetLive(t, f, 3, zone.Pack(3, zone.Closed, 104))
	},
		"above its capacity of 96", "above its capacity"},
	{"live entry of no state", func(t *testing.T, f *os.File, _ *format.Layout) { imagetest.SetLive(t, f, 3, zone.Pack(3, 7, 8)) },
		"state(7) is no zone state", "no zone state"},
	{"live entry of another zone", func(t *testing.T, f *os.File, _ *format.Layout) {
		imagetest.SetLive(t, f, 3, zone.Pack(4, zone.Empty, 0))
	},
		"does not match its contents", "does not match"},
	{"empty with data", func(t *testing.T, f *os.File, _ *format.Layout) {
		imagetest.SetLive(t, f, 3, zone.Pack(3, zone.Empty, 8))
	},
		"state empty, but its write pointer", "state empty, but"},
	{"conventional and open", func(t *testing.T, f *os.File, _ *format.Layout) {
		imagetest.SetLive(t, f, 0, zone.Pack(0, zone.ImpOpen, 0))
	},
		"but the zone is conventional", "conventional"},
	{"conventional with a pointer", func(t *testing.T, f *os.File, _ *format.Layout) {
		imagetest.SetLive(t, f, 1, zone.Pack(1, zone.NotWP, 8))
	},
		"a write pointer, but the zone is conventional", "conventional"},
	{"sequential without a pointer", func(t *testing.T, f *os.File, _ *format.Layout) {
		imagetest.SetLive(t, f, 5, zone.Pack(5, zone.NotWP, 0))
	},
		"but the zone is sequential", "sequential"},
	{"pointer within a block", func(t *testing.T, f *os.File, l *format.Layout) {
		imagetest.EditSupers(t, f, func(b []byte) { binary.LittleEndian.PutUint32(b[80:], 4096) })
		imagetest.SetLive(t, f, 2, zone.Pack(2, zone.Closed, 9))
	}, "write pointer at sector 9 of the zone, not a whole block", "not a whole block"},
	{"tables disagree", func(t *testing.T, f *os.File, _ *format.Layout) {
		imagetest.SetLive(t, f, 9, zone.Pack(9, zone.Closed, 8))
	},
		"zone 9: the live table says closed with 8 sectors written, the committed one empty with 0", ""},
	{"too many open", func(t *testing.T, f *os.File, l *format.Layout) {
		imagetest.SetEntries(t, f, l, map[int]zone.Entry{3: zone.Pack(3, zone.ExpOpen, 0), 4: zone.Pack(4, zone.ExpOpen, 0), 5: zone.Pack(5, zone.ImpOpen, 8)})
	}, "zones: 4 are open, but at most 3 may be", "too many open zones; run 'zvhost check'"},
	{"too many active", func(t *testing.T, f *os.File, l *format.Layout) {
		ws := map[int]zone.Entry{}
		for i := 3; i < 9; i++ {
			ws[i] = zone.Pack(i, zone.Closed, 8)
		}
		imagetest.SetEntries(t, f, l, ws)
	}, "zones: 7 are active, but at most 5 may be", "too many active zones; run 'zvhost check'"},
}

func TestCheckFindsDamage(t *testing.T) {
	for _, dm := range damages {
		t.Run(dm.name, func(t *testing.T) {
			path := imagetest.New(t, disktest.Small)
			d := openDisk(t, path)
			c := disktest.NewClient(t, d)
			c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil) // zone 2 is open
			imagetest.CloseDisk(t, d, path)
			imagetest.Edit(t, path, func(f *os.File, l *format.Layout) { dm.do(t, f, l) })

			findings, err := image.Check(path)
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, f := range findings {
				found = found || strings.Contains(f.String(), dm.want)
				if strings.Contains(f.String(), "\n") {
					t.Errorf("%q is not one line", f)
				}
			}
			if !found {
				t.Errorf("findings %q, want one with %q", findings, dm.want)
			}
			for _, readOnly := range []bool{true, false} {
				d, err := backend.Open(path, disk.Options{ReadOnly: readOnly})
				switch {
				case err == nil && dm.open != "":
					t.Errorf("opened all the same (read-only %v)", readOnly)
				case err != nil && (dm.open == "" || !strings.Contains(err.Error(), dm.open) || strings.Contains(err.Error(), "\n")):
					t.Errorf("open (read-only %v): got %v, want %q", readOnly, err, dm.open)
				}
				if err == nil {
					if err := d.Close(); err != nil {
						t.Error(err)
					}
				}
			}
			if _, err := backend.ReadReport(path); err != nil && dm.open == "" {
				t.Error(err)
			}
		})
	}
}

// A file that can be told to be an image is never served as an ordinary disk: a
// guest would write over its zones (seed bug 8: a host-managed disk exported as
// if it were an ordinary one).
func TestSeedImageIsNeverOrdinary(t *testing.T) {
	for _, b := range [][]byte{nil, []byte("x"), make([]byte, 4096), make([]byte, 8192), make([]byte, 12<<10)} {
		path := imagetest.New(t, disktest.Small)
		imagetest.Edit(t, path, func(f *os.File, _ *format.Layout) { imagetest.Patch(t, f, b, 0) })
		if kind, err := image.Probe(path); kind != disk.KindImage || err != nil {
			t.Errorf("probed as kind %d, %v", kind, err)
		}
		d, err := backend.Open(path, disk.Options{})
		if err == nil {
			if d.Info().Zoned == nil {
				t.Error("an image is served as an ordinary disk")
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
