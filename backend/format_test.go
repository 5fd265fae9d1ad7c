package backend

import (
	"os"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/imagetest"
)

// A guest that writes an image's notes into its ordinary disk has an ordinary disk
// the next time, too, if the operator says that it is one; and what is to be an image
// is never served as anything else.
func TestFormat(t *testing.T) {
	image := imagetest.New(t, disktest.Small)
	plain := newPlain(t, 1<<20)
	marked := newPlain(t, 1<<20)
	head, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(marked, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(head[:1<<16]); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path   string
		format disk.Format
		zoned  bool
		want   string // of the error; empty: none
	}{
		{image, disk.FormatAny, true, ""},
		{image, disk.FormatZoned, true, ""},
		{image, disk.FormatRaw, false, ""},
		{plain, disk.FormatAny, false, ""},
		{plain, disk.FormatRaw, false, ""},
		{plain, disk.FormatZoned, false, "neither a zoned image nor a zoned drive"},
		{marked, disk.FormatRaw, false, ""},
		{marked, disk.FormatAny, true, "image"},
	} {
		d, err := Open(c.path, disk.Options{Format: c.format})
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s as %q: %v does not say %q", c.path, c.format, err, c.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s as %q: %v", c.path, c.format, err)
			continue
		}
		if got := d.Info().Zoned != nil; got != c.zoned {
			t.Errorf("%s as %q: zoned %v", c.path, c.format, got)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := disk.FormatRaw.Check("drive", disk.KindZonedDevice); err == nil || !strings.Contains(err.Error(), "--format=raw") {
		t.Errorf("a zoned drive as an ordinary disk: %v", err)
	}
}
