package backend

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/internal/loopdev"
)

// wantRefused says that a disk cannot be opened because it is in use, in one line with
// said in it.
func wantRefused(t *testing.T, path string, o disk.Options, said string) {
	t.Helper()
	d, err := Open(path, o)
	if err == nil {
		t.Errorf("%s, %+v: served", path, o)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		return
	}
	if !disk.IsInUse(err) || !strings.Contains(err.Error(), said) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s, %+v: %v; want it to say %q", path, o, err, said)
	}
}

// wantServed says that a disk can be opened.
func wantServed(t *testing.T, path string, o disk.Options) {
	t.Helper()
	d, err := Open(path, o)
	if err == nil {
		err = d.Close()
	}
	if err != nil {
		t.Errorf("%s, %+v: %v", path, o, err)
	}
}

// infoOf is what is shown of a disk to who only looks at it.
func infoOf(t *testing.T, path string, o disk.Options) disk.Info {
	t.Helper()
	d, err := Look(path, o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	return d.Info()
}

// A mounted device is served to nobody, but for one that is mounted read-only to a guest
// that only reads. What only looks at it may.
func TestMountedDeviceIsRefused(t *testing.T) {
	dev := loopdev.Attach(t, loopdev.File(t, 16<<20), loopdev.Options{})
	dev.FileSystem()
	for _, o := range []disk.Options{{}, {ReadOnly: true}, {Direct: true}, {Direct: true, ReadOnly: true}} {
		wantServed(t, dev.Path, o)
	}
	t.Run("read-write", func(t *testing.T) {
		dev := dev.For(t)
		dir := dev.Mount(0)
		for _, path := range []string{dev.Path, dev.Node()} {
			for _, o := range []disk.Options{{}, {ReadOnly: true}, {Direct: true}, {Format: disk.FormatRaw}} {
				wantRefused(t, path, o, "mounted at "+dir)
			}
			infoOf(t, path, disk.Options{})
		}
	})
	t.Run("read-only", func(t *testing.T) {
		dev := dev.For(t)
		dir := dev.Mount(unix.MS_RDONLY)
		for _, path := range []string{dev.Path, dev.Node()} {
			wantRefused(t, path, disk.Options{}, "mounted at "+dir)
			wantServed(t, path, disk.Options{ReadOnly: true})
		}
	})
	wantServed(t, dev.Path, disk.Options{})
}

// One writer or any number of readers use a device, through whatever nodes.
func TestSecondNodeIsRefused(t *testing.T) {
	dev := loopdev.Attach(t, loopdev.File(t, 1<<20), loopdev.Options{})
	node := dev.Node()
	for _, c := range []struct {
		first, second   string
		reads, alsoRead bool
	}{
		{dev.Path, node, false, false},
		{dev.Path, node, false, true},
		{node, dev.Path, false, false},
		{node, dev.Path, false, true},
		{dev.Path, dev.Path, false, false},
		{dev.Path, dev.Path, true, false},
		{dev.Path, node, true, false},
		{node, dev.Path, true, false},
	} {
		d, err := Open(c.first, disk.Options{ReadOnly: c.reads})
		if err != nil {
			t.Fatal(err)
		}
		wantRefused(t, c.second, disk.Options{ReadOnly: c.alsoRead}, fmt.Sprintf("process %d (", os.Getpid()))
		if c.reads {
			wantServed(t, c.second, disk.Options{ReadOnly: true})
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		wantServed(t, c.second, disk.Options{ReadOnly: c.alsoRead})
	}
}

// A file that a loop device stands on changes under whoever has it mounted, and the other
// way round. Two that only read do not mind each other.
func TestFileUnderLoopDeviceIsRefused(t *testing.T) {
	for _, zoned := range []bool{false, true} {
		path := loopdev.File(t, 1<<20)
		if zoned {
			path = imagetest.New(t, disktest.Small)
		}
		for _, readOnly := range []bool{false, true} {
			t.Run(fmt.Sprintf("zoned %v, read-only device %v", zoned, readOnly), func(t *testing.T) {
				dev := loopdev.Attach(t, path, loopdev.Options{ReadOnly: readOnly})
				wantRefused(t, path, disk.Options{}, "losetup -d "+dev.Path)
				if readOnly {
					wantServed(t, path, disk.Options{ReadOnly: true})
				} else {
					wantRefused(t, path, disk.Options{ReadOnly: true}, "losetup -d "+dev.Path)
				}
			})
		}
		wantServed(t, path, disk.Options{})
	}
}

// A loop device over a file that is served, or used by QEMU, is refused, and who serves the
// device has the file's locks. It is so through more than one device.
func TestLoopDeviceOverFileInUse(t *testing.T) {
	for _, devices := range []int{1, 2} {
		for _, readOnly := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d devices, read-only %v", devices, readOnly), func(t *testing.T) {
				file := loopdev.File(t, 1<<20)
				d, err := Open(file, disk.Options{})
				if err != nil {
					t.Fatal(err)
				}
				path := file
				for range devices {
					path = loopdev.Attach(t, path, loopdev.Options{ReadOnly: readOnly}).Path
				}
				o := disk.Options{ReadOnly: readOnly}
				wantRefused(t, path, o, fmt.Sprintf("its file %s is in use by process %d (", file, os.Getpid()))
				if err := d.Close(); err != nil {
					t.Error(err)
				}
				stop := startQEMU(t, file, qemuDisk)
				if stop == nil {
					t.Fatal("the file's locks stay")
				}
				wantRefused(t, path, o, fmt.Sprintf("its file %s is in use by process ", file))
				stop()
				if d, err = Open(path, o); err != nil {
					t.Fatal(err)
				}
				wantRefused(t, file, disk.Options{}, "in use by process ")
				if stop = startQEMU(t, file, qemuDisk); stop != nil {
					t.Error("QEMU uses the file of a device that is served")
					stop()
				}
				if readOnly {
					if stop = startQEMU(t, file, qemuRDOnly); stop == nil {
						t.Error("two that read do not share the file")
					} else {
						stop()
					}
				}
				if err := d.Close(); err != nil {
					t.Error(err)
				}
				if stop = startQEMU(t, file, qemuDisk); stop == nil {
					t.Fatal("the file's locks stay when the device is closed")
				}
				stop()
			})
		}
	}
}

// Loop devices over different parts of a file do not mind each other; who has all of the
// file, or another device over the same part, does.
func TestLoopDevicesOverParts(t *testing.T) {
	file := loopdev.File(t, 3<<20)
	first := loopdev.Attach(t, file, loopdev.Options{Bytes: 1 << 20})
	second := loopdev.Attach(t, file, loopdev.Options{Offset: 1 << 20, Bytes: 1 << 20})
	d, err := Open(first.Path, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	wantServed(t, second.Path, disk.Options{})
	if stop := startQEMU(t, file, qemuDisk); stop != nil {
		t.Error("QEMU uses the file of a device that is served")
		stop()
	}
	wantRefused(t, file, disk.Options{}, "in use by process ")
	third := loopdev.Attach(t, file, loopdev.Options{Offset: 2<<20 - 4096})
	wantRefused(t, third.Path, disk.Options{}, second.Path)
	wantRefused(t, second.Path, disk.Options{}, third.Path)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// A loop device over a part of a device of which somebody has another part is served, and
// one over all of it is not.
func TestLoopDeviceOverPartOfDevice(t *testing.T) {
	below := loopdev.Attach(t, loopdev.File(t, 2<<20), loopdev.Options{})
	other, err := os.OpenFile(below.Path, os.O_RDWR|unix.O_EXCL, 0) // as a mount of a partition has it
	if err != nil {
		t.Fatal(err)
	}
	for _, offset := range []uint64{0, 1 << 20} {
		t.Run(fmt.Sprintf("from %d", offset), func(t *testing.T) {
			path := loopdev.Attach(t, below.Path, loopdev.Options{Offset: offset}).Path
			if offset == 0 {
				wantRefused(t, path, disk.Options{}, "its device "+below.Path+" is in use: ")
			} else {
				wantServed(t, path, disk.Options{})
			}
		})
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
}

// The file of a loop device that has no name any more cannot be locked: its users are
// found by the kernel's list, and where there are none the operator is told.
func TestLoopDeviceOverRemovedFile(t *testing.T) {
	file := loopdev.File(t, 1<<20)
	dev := loopdev.Attach(t, file, loopdev.Options{})
	other, err := os.Open(file)
	if err == nil {
		err = unix.Flock(int(other.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, dev.Path, disk.Options{}, "its file "+file+" (deleted) is in use by process ")
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	var said []string
	wantServed(t, dev.Path, disk.Options{Warn: func(text string) { said = append(said, text) }})
	if len(said) != 1 || !strings.Contains(said[0], "cannot be locked") || strings.Contains(said[0], "\n") {
		t.Errorf("%q", said)
	}
}

// A file that has lost the name by which a loop device was made over it, and has another one
// (link(2)), is in use by that device.
func TestLoopDeviceOverFileOfTwoNames(t *testing.T) {
	file := loopdev.File(t, 1<<20)
	other := file + "-linked"
	if err := os.Link(file, other); err != nil {
		t.Fatal(err)
	}
	dev := loopdev.Attach(t, file, loopdev.Options{})
	wantRefused(t, other, disk.Options{}, "in use by "+dev.Path)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, other, disk.Options{}, "in use by "+dev.Path)
	// Another file of that name is not the device's.
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, other, disk.Options{}, "in use by "+dev.Path)
	wantServed(t, file, disk.Options{})
}

// A read-only device is served to guests that only read.
func TestReadOnlyDevice(t *testing.T) {
	dev := loopdev.Attach(t, loopdev.File(t, 1<<20), loopdev.Options{ReadOnly: true})
	if d, err := Open(dev.Path, disk.Options{}); err == nil {
		t.Error("served read-write")
		_ = d.Close()
	} else if !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), "--read-only") {
		t.Error(err)
	}
	d, err := Open(dev.Path, disk.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(0, disktest.Pattern('a', 512)), disk.ErrReadOnly)
	if got := c.Read(0, 4096); !bytes.Equal(got, make([]byte, 4096)) {
		t.Error("not what stands there")
	}
}

// A device of 4096-byte blocks is shown with 512-byte ones where that is asked for.
func TestSmallBlocksOnDevice(t *testing.T) {
	for _, kind := range engine.Kinds {
		for _, direct := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, direct %v", kind, direct), func(t *testing.T) {
				const bytes = 400 << disk.SectorShift
				dev := loopdev.Attach(t, loopdev.File(t, bytes), loopdev.Options{BlockSize: 4096})
				if i := infoOf(t, dev.Path, disk.Options{}); i.LogicalBlockSize != 4096 {
					t.Errorf("without --block-size: %+v", i)
				}
				testEdgesOf(t, dev.Path, make([]byte, bytes), kind, disk.Options{Direct: direct, BlockSize: 512})
			})
		}
	}
}

// Writes of several queues that overlap, in sectors of blocks of 4096 bytes: each sector
// is what one of them wrote to it in the last round, whole, and where none did it stays.
func TestOverlappingWritesOnDevice(t *testing.T) {
	for _, kind := range engine.Kinds {
		for _, direct := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, direct %v", kind, direct), func(t *testing.T) {
				const sectors, workers, depth, rounds = 64, 3, 4, 30
				dev := loopdev.Attach(t, loopdev.File(t, sectors<<disk.SectorShift), loopdev.Options{BlockSize: 4096})
				d, err := Open(dev.Path, disk.Options{Direct: direct, BlockSize: 512})
				if err != nil {
					t.Fatal(err)
				}
				defer func() { // before the device goes, which waits for it
					if err := d.Close(); err != nil {
						t.Error(err)
					}
				}()
				rnd := rand.New(rand.NewPCG(5, 7))
				var may [sectors][]byte // what may stand in each sector
				for s := range may {
					may[s] = []byte{0}
				}
				for round := range rounds {
					var now [sectors][]byte
					var all sync.WaitGroup
					for w := range workers {
						var rs []*disk.Request
						for q := range depth {
							first := rnd.IntN(sectors)
							n := 1 + rnd.IntN(min(20, sectors-first))
							id := byte(1 + (round*workers*depth+w*depth+q)%255)
							b := crooked(n<<disk.SectorShift, rnd.IntN(2)*3)
							for i := range b {
								b[i] = id
							}
							for s := first; s < first+n; s++ {
								now[s] = append(now[s], id)
							}
							rs = append(rs, &disk.Request{Op: disk.OpWrite, Sector: uint64(first), Bytes: uint64(len(b)), Iov: pieces(b, rnd.IntN(2) == 0)})
						}
						all.Go(func() { writeAll(t, d, kind, rs) })
					}
					all.Wait()
					for s := range now {
						if now[s] != nil {
							may[s] = now[s]
						}
					}
					c := disktest.NewClient(t, d)
					for s, got := 0, c.Read(0, sectors<<disk.SectorShift); s < sectors; s++ {
						b := got[s<<disk.SectorShift:][:disk.SectorSize]
						if bytes.IndexByte(may[s], b[0]) < 0 || !bytes.Equal(b, bytes.Repeat(b[:1], disk.SectorSize)) {
							t.Fatalf("round %d: sector %d holds %d…%d, want all of one of %d", round, s, b[0], b[disk.SectorSize-1], may[s])
						}
						may[s] = b[:1:1]
					}
				}
			})
		}
	}
}

// writeAll carries out requests at once, on a lane of their own.
func writeAll(t *testing.T, d disk.Disk, kind engine.Kind, rs []*disk.Request) {
	disktest.AsWorker(t, d, kind, func(c *disktest.Client) {
		c.Submit(rs...)
		for range rs {
			if r := c.Wait(); r.Err != nil {
				t.Error(r.Err)
			}
		}
	})()
}

// What of a device can be given back, and where, is what the kernel says of it.
func TestDiscardOfDevice(t *testing.T) {
	for _, block := range []uint32{512, 4096} {
		dev := loopdev.Attach(t, loopdev.File(t, 1<<20), loopdev.Options{BlockSize: block})
		for _, shown := range []uint32{0, 512} {
			i := infoOf(t, dev.Path, disk.Options{BlockSize: shown})
			if n := dev.Queue("discard_granularity"); uint64(i.DiscardGranularity) != n || i.MaxDiscardSectors == 0 {
				t.Errorf("blocks of %d, shown as %d: granularity %d, want %d; at most %d sectors", block, shown, i.DiscardGranularity, n, i.MaxDiscardSectors)
			}
		}
		d, err := Open(dev.Path, disk.Options{BlockSize: 512})
		if err != nil {
			t.Fatal(err)
		}
		c := disktest.NewClient(t, d)
		c.WantError(c.Write(0, disktest.Pattern('a', 1<<20)), nil)
		c.WantError(c.Do(ranges(disk.OpDiscard, disk.Range{Sector: 0, Sectors: 1024})), nil)
		c.WantError(c.Do(ranges(disk.OpWriteZeroes, disk.Range{Sector: 1031, Sectors: 17, Unmap: true})), nil)
		want := disktest.Pattern('a', 1<<20)
		clear(want[:512<<10])
		clear(want[1031<<disk.SectorShift : 1048<<disk.SectorShift])
		if got := c.Read(0, 1<<20); !bytes.Equal(got, want) {
			t.Errorf("blocks of %d: what was given back is not zeroes, or something else is", block)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A device that becomes smaller is noticed as a file is: see TestFileShrinks.
func TestDeviceShrinks(t *testing.T) {
	onEachEngine(t, func(t *testing.T, _ string, o disk.Options, kind engine.Kind) {
		for _, first := range []string{"read", "write", "flush", "nothing"} {
			path := loopdev.File(t, 1<<20)
			dev := loopdev.Attach(t, path, loopdev.Options{})
			d, err := Open(dev.Path, o)
			if err != nil {
				t.Fatal(err)
			}
			c := disktest.NewClientOn(t, d, kind.Open)
			c.WantError(c.Write(1024, crooked(4096, 0)), nil)
			c.WantError(c.Flush(), nil)
			if err := os.Truncate(path, 64<<10); err != nil {
				t.Fatal(err)
			}
			dev.Resized()
			switch first {
			case "read":
				c.WantError(c.Do(disktest.NewRequest(disk.OpRead, 1024, crooked(4096, 0))), disk.ErrIO)
			case "write":
				c.WantError(c.Write(1024, crooked(4096, 0)), disk.ErrIO)
			case "flush":
				c.WantError(c.Flush(), disk.ErrIO)
			}
			if first != "nothing" {
				wantCutShort(t, "flush", c.Flush())
				wantCutShort(t, "read", c.Do(disktest.NewRequest(disk.OpRead, 0, crooked(4096, 0))))
				wantCutShort(t, "write", c.Write(0, crooked(4096, 0)))
			}
			wantCutShort(t, first+", close", d.Close())
		}
	})
}

// An image that was copied onto a device says what can be done, however it is opened.
func TestImageOnDeviceIsExplained(t *testing.T) {
	image, err := os.ReadFile(imagetest.New(t, disktest.Small))
	if err != nil {
		t.Fatal(err)
	}
	dev := loopdev.Attach(t, loopdev.File(t, int64(len(image)+4095)&^4095), loopdev.Options{})
	f, err := os.OpenFile(dev.Path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.Write(image)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []disk.Options{{}, {ReadOnly: true}, {Direct: true}, {Format: disk.FormatZoned}} {
		if _, err := Open(dev.Path, o); err == nil || !strings.Contains(err.Error(), "a block device that holds a zoned image") {
			t.Errorf("%+v: %v", o, err)
		}
	}
	wantServed(t, dev.Path, disk.Options{Format: disk.FormatRaw})
}
