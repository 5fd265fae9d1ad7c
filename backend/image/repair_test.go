package image_test

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// What can be repaired, by the names of damages; all else must stay as it is.
var repairable = map[string]string{
	"superblock":                "superblock: written anew from its copy",
	"superblock wiped":          "superblock: written anew from its copy",
	"copy of the superblock":    "copy of the superblock: written anew",
	"one copy of a table block": "committed zone table, block 0, copy 1: written anew",
	"one state block":           "state block 1: written anew",

	"both copies of a table block":    "committed zone table, block 0, copy 0: written anew from the live zone table",
	"table block in another's place":  "committed zone table, block 0, copy 0: written anew from the live zone table",
	"live entry scribbled over":       "live zone table, zone 3: written anew from the committed zone table",
	"live pointer above the capacity": "live zone table, zone 3: written anew from the committed zone table",
	"live entry of no state":          "live zone table, zone 3: written anew from the committed zone table",
	"live entry of another zone":      "live zone table, zone 3: written anew from the committed zone table",
	"empty with data":                 "live zone table, zone 3: written anew from the committed zone table",
	"conventional and open":           "live zone table, zone 0: written anew from the committed zone table",
	"conventional with a pointer":     "live zone table, zone 1: written anew from the committed zone table",
	"sequential without a pointer":    "live zone table, zone 5: written anew from the committed zone table",
	"pointer within a block":          "live zone table, zone 2: written anew from the committed zone table",
}

func TestRepair(t *testing.T) {
	all := append(slices.Clone(damages), damage{name: "one state block", do: func(t *testing.T, f *os.File, _ *format.Layout) {
		imagetest.Patch(t, f, []byte("x"), format.StateOff+format.BlockBytes+3)
	}})
	for _, dm := range all {
		t.Run(dm.name, func(t *testing.T) {
			path := imagetest.New(t, disktest.Small)
			d := openDisk(t, path)
			c := disktest.NewClient(t, d)
			data := disktest.Pattern('a', 4096)
			c.WantError(c.Write(256, data), nil)
			imagetest.CloseDisk(t, d, path)
			imagetest.Edit(t, path, func(f *os.File, l *format.Layout) { dm.do(t, f, l) })
			before := imagetest.Contents(t, path)

			mended, err := image.Repair(path, image.RepairSafe)
			want, can := repairable[dm.name]
			switch {
			case dm.name == "both superblocks wiped" || dm.name == "cut short in the tables":
				// Probe may tell that it is no image at all.
			case err != nil:
				t.Fatal(err)
			}
			if !can {
				if len(mended) > 0 {
					t.Errorf("mended %q", mended)
				}
				if !bytes.Equal(imagetest.Contents(t, path), before) {
					t.Error("the file has changed")
				}
				return
			}
			if len(mended) == 0 || !strings.Contains(mended[0].String(), want) {
				t.Errorf("mended %q, want %q", mended, want)
			}
			if findings, err := image.Check(path); err != nil || len(findings) > 0 {
				t.Errorf("after the repair: %q, %v", findings, err)
			}
			if again, err := image.Repair(path, image.RepairSafe); err != nil || len(again) > 0 {
				t.Errorf("mended again: %q, %v", again, err)
			}
			d = openDisk(t, path)
			c = disktest.NewClient(t, d)
			c.WantZone(2, zone.ImpOpen, 8)
			if !bytes.Equal(c.Read(256, 4096), data) {
				t.Error("the data has changed")
			}
			imagetest.CloseDisk(t, d, path)
		})
	}
}

// Where nobody knows whether the image was closed cleanly nobody knows which copy
// of a table block counts.
func TestRepairDoesNotGuess(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
	imagetest.CloseDisk(t, d, path)
	imagetest.Edit(t, path, func(f *os.File, l *format.Layout) {
		imagetest.Patch(t, f, []byte("x"), format.StateOff+3)
		imagetest.Patch(t, f, []byte("x"), format.StateOff+format.BlockBytes+3)
		imagetest.Patch(t, f, []byte("x"), l.TableOff+format.BlockBytes+100) // the newer one
	})
	before := imagetest.Contents(t, path)
	if mended, err := image.Repair(path, image.RepairSafe); err != nil || len(mended) > 0 {
		t.Errorf("mended %q, %v", mended, err)
	}
	if !bytes.Equal(imagetest.Contents(t, path), before) {
		t.Error("the file has changed")
	}
}

// An image that is being served is left alone, and so is what is no image.
func TestRepairRefuses(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d := openDisk(t, path)
	if _, err := image.Repair(path, image.RepairSafe); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("an image in use: %v", err)
	}
	imagetest.CloseDisk(t, d, path)
	plain := path + ".raw"
	if err := os.WriteFile(plain, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := image.Repair(plain, image.RepairSafe); err == nil || !strings.Contains(err.Error(), format.ErrNotImage.Error()) {
		t.Errorf("no image: %v", err)
	}
}
