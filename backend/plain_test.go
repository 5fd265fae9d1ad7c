package backend

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/format"
)

func newPlain(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func ranges(op disk.Op, rs ...disk.Range) *disk.Request { return &disk.Request{Op: op, Ranges: rs} }

// An ordinary disk is its file, byte for byte.
func TestPlain(t *testing.T) {
	const sectors = 2048
	path := newPlain(t, sectors<<disk.SectorShift+100) // what is no whole block is not the disk's
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	if i := d.Info(); i.CapacitySectors != sectors || i.LogicalBlockSize != 512 || i.ReadOnly || i.Zoned != nil ||
		i.MaxDiscardSectors == 0 || i.MaxWriteZeroesSectors == 0 {
		t.Errorf("info %+v", i)
	}
	want := make([]byte, sectors<<disk.SectorShift)
	for i, step := range []struct {
		sector uint64
		n      int
		err    error
	}{
		{0, 512, nil},
		{7, 4096, nil},
		{sectors - 1, 512, nil},
		{100, 1 << 16, nil},
		{sectors - 8, 4096, nil},
		{sectors, 0, nil},
		{0, 0, nil},
		{sectors, 512, disk.ErrRange},
		{sectors - 1, 1024, disk.ErrRange},
		{0, 511, disk.ErrRange},
		{1 << 60, 512, disk.ErrRange},
		{1<<64 - 1, 512, disk.ErrRange},
		{sectors + 1, 0, disk.ErrRange},
	} {
		data := disktest.Pattern(byte('a'+i), step.n)
		c.WantError(c.Write(step.sector, data), step.err)
		c.WantError(c.Do(disktest.NewRequest(disk.OpRead, step.sector, make([]byte, step.n))), step.err)
		if step.err == nil {
			copy(want[step.sector<<disk.SectorShift:], data)
		}
	}
	stable := disktest.NewRequest(disk.OpWrite, 50, disktest.Pattern('z', 512))
	stable.Stable = true
	c.WantError(c.Do(stable), nil)
	copy(want[50<<disk.SectorShift:], disktest.Pattern('z', 512))

	zero := func(r *disk.Request, err error) {
		t.Helper()
		c.WantError(c.Do(r), err)
		if err != nil {
			return
		}
		for _, s := range r.Ranges {
			clear(want[s.Sector<<disk.SectorShift:][:s.Sectors<<disk.SectorShift])
		}
	}
	zero(ranges(disk.OpDiscard, disk.Range{Sector: 100, Sectors: 3}, disk.Range{}, disk.Range{Sector: 104, Sectors: 1}), nil)
	zero(ranges(disk.OpWriteZeroes, disk.Range{Sector: 110, Sectors: 5}, disk.Range{Sector: 120, Sectors: 9, Unmap: true}), nil)
	all := ranges(disk.OpWriteZeroes, disk.Range{Sector: sectors - 8, Sectors: 8})
	all.Stable = true
	zero(all, nil)
	zero(ranges(disk.OpDiscard), nil)
	zero(ranges(disk.OpDiscard, disk.Range{Sector: sectors, Sectors: 0}), nil)
	zero(ranges(disk.OpDiscard, disk.Range{Sector: sectors - 1, Sectors: 2}), disk.ErrRange)
	zero(ranges(disk.OpWriteZeroes, disk.Range{Sector: 0, Sectors: 1}, disk.Range{Sector: sectors + 1, Sectors: 0}), disk.ErrRange)
	zero(ranges(disk.OpWriteZeroes, disk.Range{Sector: 1<<64 - 1, Sectors: 2}), disk.ErrRange)

	for _, op := range []disk.Op{disk.OpAppend, disk.OpOpen, disk.OpClose, disk.OpFinish, disk.OpReset, disk.OpResetAll, disk.NumOps} {
		c.WantError(c.Do(disktest.NewRequest(op, 0, nil)), disk.ErrUnsupported)
	}
	c.WantError(c.Flush(), nil)
	if got := c.Read(0, len(want)); !bytes.Equal(got, want) {
		t.Error("the disk is not what was written")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got[:len(want)], want) || len(got) != len(want)+100 {
		t.Errorf("the file is not the disk: %v", err)
	}
}

func TestPlainReadOnly(t *testing.T) {
	path := newPlain(t, 1<<20)
	d, err := Open(path, disk.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	c := disktest.NewClient(t, d)
	if i := d.Info(); !i.ReadOnly || i.MaxDiscardSectors != 0 || i.MaxWriteZeroesSectors != 0 {
		t.Errorf("info %+v", i)
	}
	c.WantError(c.Write(0, make([]byte, 512)), disk.ErrReadOnly)
	c.WantError(c.Do(ranges(disk.OpDiscard, disk.Range{Sectors: 1})), disk.ErrReadOnly)
	c.WantError(c.Do(ranges(disk.OpWriteZeroes, disk.Range{Sectors: 1})), disk.ErrReadOnly)
	c.WantError(c.Flush(), nil)
	c.Read(0, 4096)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// What the disk below cannot do is an error of that request, in words.
func TestPlainFaults(t *testing.T) {
	d := openDisk(t, newPlain(t, 1<<20))
	defer d.Close()
	c, e := disktest.HeldClient(t, d, nil)
	fail := func(code engine.Code, errs ...error) {
		e.Fault = func(op *engine.Op) disktest.OpFault {
			if op.Code != code || len(errs) == 0 {
				return disktest.OpFault{}
			}
			err := errs[0]
			errs = errs[1:]
			return disktest.OpFault{Err: err}
		}
	}
	fail(engine.Writev, unix.ENOSPC)
	err := c.Write(8, make([]byte, 512))
	c.WantError(err, disk.ErrIO)
	c.WantError(err, unix.ENOSPC)
	if want := "write of 512 bytes at sector 8: input/output error: no space left on device"; err == nil || err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	c.WantError(c.Write(8, make([]byte, 512)), nil)

	fail(engine.Readv, unix.EIO)
	c.WantError(c.Do(disktest.NewRequest(disk.OpRead, 0, make([]byte, 512))), disk.ErrIO)

	// Discard is advice; zeroes are a promise, which a hole is only one way to keep.
	fail(engine.PunchHole, unix.EOPNOTSUPP)
	c.WantError(c.Do(ranges(disk.OpDiscard, disk.Range{Sectors: 8})), nil)
	c.WantError(c.Write(0, disktest.Pattern('x', 4096)), nil)
	fail(engine.PunchHole, unix.EOPNOTSUPP)
	c.WantError(c.Do(ranges(disk.OpWriteZeroes, disk.Range{Sectors: 8, Unmap: true})), nil)
	if !bytes.Equal(c.Read(0, 4096), make([]byte, 4096)) {
		t.Error("write zeroes left something else")
	}
	fail(engine.ZeroRange, unix.EIO)
	c.WantError(c.Do(ranges(disk.OpWriteZeroes, disk.Range{Sectors: 8}, disk.Range{Sector: 8, Sectors: 8})), disk.ErrIO)
	stable := ranges(disk.OpDiscard, disk.Range{Sectors: 8})
	stable.Stable = true
	fail(engine.Fdatasync, unix.EIO)
	c.WantError(c.Do(stable), disk.ErrIO)
}

// The kernel tells of data that it lost once, and to the next sync says that
// all is well. A guest must not believe that.
func TestPlainFailedSyncIsSticky(t *testing.T) {
	d := openDisk(t, newPlain(t, 1<<20))
	c, e := disktest.HeldClient(t, d, nil)
	c.WantError(c.Write(0, make([]byte, 512)), nil)
	e.Fault = func(op *engine.Op) disktest.OpFault {
		if op.Code == engine.Fdatasync {
			return disktest.OpFault{Err: unix.EIO}
		}
		return disktest.OpFault{}
	}
	c.WantError(c.Flush(), disk.ErrIO)
	e.Fault = nil
	err := c.Flush()
	c.WantError(err, disk.ErrIO)
	if err == nil || !strings.Contains(err.Error(), "earlier sync failed") {
		t.Errorf("got %v, want it to tell of the earlier sync", err)
	}
	stable := disktest.NewRequest(disk.OpWrite, 0, make([]byte, 512))
	stable.Stable = true
	c.WantError(c.Do(stable), disk.ErrIO)
	c.WantError(c.Write(0, make([]byte, 512)), nil) // promises nothing
	c.Read(0, 4096)
	if err := d.Close(); err == nil || !strings.Contains(err.Error(), "earlier sync failed") {
		t.Errorf("closed with %v", err)
	}
}

// What cannot be a disk is not opened, for that alone may do something: it starts a watchdog,
// rewinds a tape, and lets go on who waits at the other end of a named pipe.
func TestNoDiskIsNotOpened(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(watch) }()
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.InotifyAddWatch(watch, fifo, unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func() error{
		"open":   func() error { _, err := Open(fifo, disk.Options{}); return err },
		"look":   func() error { _, err := Look(fifo, disk.Options{}); return err },
		"check":  func() error { _, err := image.Check(fifo); return err },
		"report": func() error { _, err := ReadReport(fifo); return err },
		"repair": func() error { _, err := image.Repair(fifo, image.RepairSafe); return err },
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), "neither a file nor a block device") {
			t.Errorf("%s: %v", name, err)
		}
		if n, err := unix.Read(watch, make([]byte, 4096)); n > 0 || err != unix.EAGAIN {
			t.Errorf("%s: the named pipe was opened (%d, %v)", name, n, err)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "missing"): "no such file",
		dir:                           "neither a file nor a block device",
		fifo:                          "neither a file nor a block device",
		"/dev/null":                   "neither a file nor a block device",
		newPlain(t, 0):                "less than one block",
		newPlain(t, 511):              "less than one block",
	} {
		if _, err := Open(path, disk.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
	path := newPlain(t, 4096)
	d := openDisk(t, path)
	if _, err := Open(path, disk.Options{}); err == nil || !strings.Contains(err.Error(), "in use by process") {
		t.Errorf("a second open: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := image.Check(path); err == nil || !strings.Contains(err.Error(), format.ErrNotImage.Error()) {
		t.Errorf("check of an ordinary disk: %v", err)
	}
}
