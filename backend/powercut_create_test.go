package backend

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/powercut"
)

// A cutFile is a file in which an image is made, on a host that may lose its
// power in the middle of each step.
type cutFile struct {
	f      *os.File
	rec    *powercut.File
	inCall func()
}

func (c *cutFile) middle() {
	if c.inCall != nil {
		c.inCall()
	}
}

func (c *cutFile) Truncate(n int64) error {
	c.rec.Resize(n)
	c.middle()
	return c.f.Truncate(n)
}

func (c *cutFile) WriteAt(b []byte, off int64) (int, error) {
	c.rec.Write(off, b)
	c.middle()
	return c.f.WriteAt(b, off)
}

func (c *cutFile) Sync() error {
	then := c.rec.Now()
	c.middle()
	c.rec.Synced(then)
	return nil
}

// A power cut while an image is made leaves a whole one or none, and once it is
// made, a whole one.
func TestPowerCutWhileCreating(t *testing.T) {
	dir := disktest.FastDir(t)
	rnd := rand.New(rand.NewPCG(rand.Uint64(), 1))
	whole, none := 0, 0
	judge := func(rec *powercut.File, made bool) {
		path := filepath.Join(dir, "left")
		if err := writeFile(path, rec.Cut(rnd, format.StateOff, format.SuperCopyOff, format.LiveOff)); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.Remove(path) }()
		d, err := openZoned(path, disk.Options{})
		if err != nil {
			if none++; made {
				t.Errorf("an image that was made is gone: %v", err)
			}
			return
		}
		whole++
		for i := range d.zones {
			want := zone.Empty
			if d.img.Conventional(i) {
				want = zone.NotWP
			}
			if z := d.ReportZone(i); z.State != want {
				t.Errorf("zone %d of a new image: %v", i, z.State)
			}
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		imagetest.WantClean(t, path)
	}
	for n := range 40 {
		g := (&cutRun{rnd: rnd}).geometry()
		path := filepath.Join(dir, "disk")
		rec := powercut.New(0)
		err := image.CreateOver(path, g, image.Start{}, func(f *os.File) image.Target {
			return &cutFile{f: f, rec: rec, inCall: func() {
				for range 3 {
					judge(rec, false)
				}
			}}
		})
		if err := errors.Join(err, os.Remove(path)); err != nil {
			t.Fatal(n, err)
		}
		judge(rec, true)
	}
	if whole < 50 || none < 200 {
		t.Errorf("%d whole images and %d none: that is not what half of the steps leave", whole, none)
	}
	t.Logf("%d power cuts: %d images, %d none", whole+none, whole, none)
}
