package backend

import (
	"bytes"
	"errors"
	"os"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// wide has so many zones that its committed table is three blocks, and few of
// them may be active.
var wide = zone.Geometry{
	CapacitySectors: 1200 * 8, ZoneSectors: 8, MaxActive: 2, MaxAppendSectors: 8,
}

// A daemon that is killed while it recovers from a power cut must not leave an
// image whose live table, which the power cut scrambled, counts as what guests
// were told.
func TestKilledDuringRecovery(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
	c.WantError(c.Flush(), nil)
	kill(t, d, fs)
	imagetest.CutPower(t, path)

	// Each change of the file may be the last.
	for last := range 20 {
		fs := new(faultStore)
		n := 0
		fs.after = func(storeCall) error {
			if n++; n > last {
				fs.dead = true
				return errDead
			}
			return nil
		}
		d, err := openZonedOver(path, disk.Options{}, fs.over)
		if err != nil {
			if !errors.Is(err, errDead) {
				t.Fatal(err)
			}
			continue
		}
		c := disktest.NewClient(t, d)
		c.WantZone(2, zone.Closed, 8)
		c.WantZone(3, zone.Empty, 0)
		kill(t, d, fs)
		d = openDisk(t, path).(*zoned)
		c = disktest.NewClient(t, d)
		c.WantZone(2, zone.Closed, 8)
		c.WantZone(3, zone.Empty, 0)
		imagetest.CloseDisk(t, d, path)
		return
	}
	t.Fatal("recovery takes more than 20 changes")
}

// A file may be longer than its image (padded by whoever copied it), and the
// search for data above the write pointers must not run off the last zone.
func TestFileLongerThanImage(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	imagetest.Edit(t, path, func(f *os.File, l *format.Layout) { imagetest.Patch(t, f, disktest.Pattern('x', 1<<20), l.FileBytes()) })
	d, fs := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
	kill(t, d, fs)
	d = openDisk(t, path).(*zoned)
	c = disktest.NewClient(t, d)
	c.WantZone(2, zone.ImpOpen, 8)
	imagetest.CloseDisk(t, d, path)
}

// With one state block gone bad the other must not say that an image in use was
// closed cleanly.
func TestStateBlockGoneBad(t *testing.T) {
	for bad := range int64(2) {
		path := imagetest.New(t, disktest.Small)
		d, fs := openFaulty(t, path)
		c := disktest.NewClient(t, d)
		c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
		c.WantError(c.Flush(), nil)
		kill(t, d, fs)
		imagetest.CutPower(t, path)
		imagetest.Edit(t, path, func(f *os.File, _ *format.Layout) {
			imagetest.Patch(t, f, []byte("bad"), format.StateOff+bad*format.BlockBytes+100)
		})
		d = openDisk(t, path).(*zoned)
		c = disktest.NewClient(t, d)
		c.WantZone(2, zone.Closed, 8)
		c.WantZone(3, zone.Empty, 0)
		imagetest.CloseDisk(t, d, path)
	}
}

// The limit on active zones holds after a power cut at any point of a commit,
// also when its changes stand in several blocks of the table, in any order.
func TestCommitKeepsActiveLimit(t *testing.T) {
	data := disktest.Pattern('a', 8*512)
	for _, order := range [][2]uint64{{0, 1100}, {1100, 0}} {
		from, to := order[0], order[1]
		for cut := 0; ; cut++ {
			path := imagetest.New(t, wide)
			d, fs := openFaulty(t, path)
			c := disktest.NewClient(t, d)
			// Two zones are active; one of them becomes full, and one in another
			// block of the table takes its place. A third block changes too.
			c.WantError(c.Write(8*from, data[:2048]), nil)
			c.WantError(c.Write(8*600, data[:2048]), nil)
			c.WantError(c.Flush(), nil)
			c.WantError(c.Write(8*from+4, data[:2048]), nil)
			c.WantError(c.Write(8*to, data[:2048]), nil)
			c.WantError(c.Write(8*600+4, data[:1024]), nil)
			n := 0
			fs.refuse(func(call storeCall) error {
				if call.op == "stable" {
					if n++; n > cut {
						return unix.EIO
					}
				}
				return nil
			})
			err := c.Flush()
			kill(t, d, fs)
			imagetest.CutPower(t, path)
			d2, oerr := openZoned(path, disk.Options{})
			if oerr != nil {
				t.Fatalf("after %d writes of the table: %v", cut, oerr)
			}
			c = disktest.NewClient(t, d2)
			if err == nil {
				c.WantZone(int(from), zone.Full, 8)
				c.WantZone(int(to), zone.Closed, 4)
				c.WantZone(600, zone.Closed, 6)
			}
			imagetest.CloseDisk(t, d2, path)
			if err == nil {
				break
			}
		}
	}
}

// What a commit says of the zones was true at one moment, as far as the limit
// on active zones goes: while it waits for one zone's write the others go on.
func TestCommitIsOneMoment(t *testing.T) {
	path := imagetest.New(t, wide)
	d, fs := openFaulty(t, path)
	data := disktest.Pattern('a', 8*512)
	c, slow := disktest.HeldClient(t, d, disktest.IsWritev)
	quick := disktest.NewClient(t, d)
	quick.WantError(quick.Write(8*10, data[:2048]), nil)
	quick.WantError(quick.Flush(), nil)
	// Zone 10 is looked at first; then the commit waits for zone 20.
	quick.WantError(quick.Write(8*10+4, data[:512]), nil)
	quick.WantError(quick.Write(8*20, data[:512]), nil)
	stuck := disktest.NewRequest(disk.OpWrite, 8*20+1, data[:3*512])
	c.Submit(stuck)
	fl := disktest.NewRequest(disk.OpFlush, 0, nil)
	quick.Submit(fl)
	waitWatched(t, d, 20)
	// Zone 10 becomes full and zone 1100 active, and is looked at last.
	other := disktest.NewClient(t, d)
	other.WantError(other.Write(8*10+5, data[:3*512]), nil)
	other.WantError(other.Write(8*1100, data[:2048]), nil)
	slow.Release(0, disktest.OpFault{})
	c.WantError(c.Wait().Err, nil)
	quick.WantError(quick.Wait().Err, nil)
	kill(t, d, fs)
	imagetest.CutPower(t, path)
	d2, err := openZoned(path, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c = disktest.NewClient(t, d2)
	c.WantZone(20, zone.Closed, 4)
	imagetest.CloseDisk(t, d2, path)
}

// waitWatched waits until the committer waits for the writes of zone i.
func waitWatched(t disktest.TB, d *zoned, i int) {
	t.Helper()
	disktest.Await(t, func() bool {
		z := &d.zones[i]
		z.mu.Lock()
		defer z.mu.Unlock()
		return z.watch
	})
}

// A write that keeps failing must not keep a flush from ending: it waits for
// those that were there when it looked, not for those that took their place.
func TestFlushOutlivesFailingWrites(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d, _ := openFaulty(t, path)
	c, slow := disktest.HeldClient(t, d, disktest.IsWritev)
	data := disktest.Pattern('a', 4096)
	c.WantError(c.WriteUnheld(slow, 384, data), nil) // zone 3: makes the flush look at zones

	quick := disktest.NewClient(t, d)
	first := disktest.NewRequest(disk.OpAppend, 256, data)
	c.Submit(first)
	// Note the zone, as an earlier write that landed would have.
	d.com.mark(2)
	quick.Submit(disktest.NewRequest(disk.OpFlush, 0, nil))
	waitWatched(t, d, 2)
	// The reset lets the next write in only once the first has ended, and in the
	// same moment.
	reset, second := disktest.NewRequest(disk.OpReset, 256, nil), disktest.NewRequest(disk.OpAppend, 256, data)
	c.Submit(reset, second)
	slow.Release(0, disktest.OpFault{Err: unix.EIO})
	c.WantError(c.Wait().Err, disk.ErrIO)
	c.WantError(c.Wait().Err, nil)
	quick.WantError(quick.Wait().Err, nil) // while the second is still held
	c.ReleaseAll(slow)
	c.WantError(c.Wait().Err, nil)
	imagetest.CloseDisk(t, d, path)
}

// An image whose reset could not be carried out must not be called clean, nor
// its old data come back behind new writes.
func TestCloseWithStuckReset(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	old := disktest.Pattern('o', 96*512)
	c.WantError(c.Write(256, old), nil)
	c.WantError(c.Flush(), nil)
	fs.refuse(failing("wipe", unix.EIO))
	c.WantError(c.ZoneOp(disk.OpReset, 256), nil)
	c.WantError(c.Write(256, old[:512]), disk.ErrIO)
	if err := d.Close(); err == nil {
		t.Fatal("closed without an error, but the old data is still there")
	}
	d, fs = openFaulty(t, path)
	if got := imagetest.RawZone(t, path, 2); !bytes.Equal(got, make([]byte, len(got))) {
		t.Error("the old data of a zone that was reset is still in the file")
	}
	c = disktest.NewClient(t, d)
	c.WantZone(2, zone.Empty, 0)

	// With the disk well again at the end, the reset is made good.
	c.WantError(c.Write(256, old), nil)
	fs.refuse(failing("wipe", unix.EIO))
	c.WantError(c.ZoneOp(disk.OpReset, 256), nil)
	c.WantError(c.Write(256, old[:512]), disk.ErrIO)
	fs.refuse(nil)
	imagetest.CloseDisk(t, d, path)
	if got := imagetest.RawZone(t, path, 2); !bytes.Equal(got, make([]byte, len(got))) {
		t.Error("the old data of a zone that was reset is still in the file")
	}
}

// A reset that fails while the disk is being closed is tried once more too.
func TestCloseTriesResetsAgain(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('o', 4096)), nil)
	wiping, closing := make(chan struct{}), make(chan struct{})
	var once sync.Once
	fs.refuse(func(call storeCall) (err error) {
		if call.op == "wipe" {
			once.Do(func() {
				close(wiping)
				<-closing
				err = unix.EIO
			})
		}
		return err
	})
	c.WantError(c.ZoneOp(disk.OpReset, 256), nil)
	<-wiping
	go func() {
		defer close(closing)
		for begun := false; !begun; runtime.Gosched() {
			d.com.mu.Lock()
			begun = d.com.closing
			d.com.mu.Unlock()
		}
	}()
	imagetest.CloseDisk(t, d, path)
	if got := imagetest.RawZone(t, path, 2); !bytes.Equal(got, make([]byte, len(got))) {
		t.Error("the old data of a zone that was reset is still in the file")
	}
}

// A zone that cannot be cleared must not hold up those that were reset with it.
func TestStuckResetIsOneZones(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	data := disktest.Pattern('a', 4096)
	zones := []uint64{2, 3, 5, 6}
	for _, i := range zones[:3] {
		c.WantError(c.Write(128*i, data), nil)
	}
	c.WantError(c.ZoneOp(disk.OpFinish, 128*5), nil)
	c.WantError(c.Write(128*6, data), nil)
	bad := d.img.Offset(128 * 3)
	fs.refuse(func(call storeCall) error {
		if call.op == "wipe" && call.off <= bad && bad < call.off+call.n {
			return unix.EIO
		}
		return nil
	})
	c.WantError(c.ZoneOp(disk.OpResetAll, 0), nil)
	for _, i := range zones {
		want := error(nil)
		if i == 3 {
			want = disk.ErrIO
		}
		c.WantError(c.Write(128*i, data[:512]), want)
	}
	// It comes right when the disk does, without a restart.
	fs.refuse(nil)
	c.WantError(c.Write(128*3, data[:512]), nil)
	if got := c.Read(128*3, 4096); !bytes.Equal(got[:512], data[:512]) || !bytes.Equal(got[512:], make([]byte, 4096-512)) {
		t.Error("old data shows behind a write after a reset")
	}
	imagetest.CloseDisk(t, d, path)
}

// A zone's place is free for others only when both tables say so: a kill -9, or
// a report, between the two must not find more zones active than there may be.
func TestPlaceIsGivenUpInPublic(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d, _ := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
	z := &d.zones[2]
	z.mu.Lock()
	if err := d.enterLocked(z, 2, zone.Full); err != nil {
		t.Error(err)
	}
	live, err := format.ReadLive(d.img.File, &d.img.Layout)
	if err != nil {
		t.Error(err)
	}
	if got := zone.Entry(z.word.Load()); got.State() != zone.Full || live[2] != got {
		t.Errorf("zone 2 gave its place up, but readers see it %v and the image %v", got.State(), live[2].State())
	}
	z.mu.Unlock()
	imagetest.CloseDisk(t, d, path)
}
