package backend

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/plain"
)

// asQEMU, in the environment, makes this binary do to its descriptor 3 what QEMU does to
// a disk's file, and end when its standard input does.
const asQEMU = "ZVHOST_TEST_AS_QEMU"

// A qemuUse is what QEMU asks for: what it does with an image, and what it lets others
// do meanwhile, as bits (BLK_PERM_* in include/block/block-common.h).
type qemuUse struct{ does, shares int }

// The uses that there are: a guest's disk, one that is only read, qemu-img info -U,
// and qemu-img resize.
var (
	qemuDisk   = qemuUse{0b0011, 0b0101}
	qemuRDOnly = qemuUse{0b0001, 0b0101}
	qemuLooks  = qemuUse{0b0001, 0b1111}
	qemuSizes  = qemuUse{0b1010, 0b0101}
)

// take is raw_apply_lock_bytes and raw_check_lock_bytes of block/file-posix.c. It is
// written from them and not with the constants that are under test.
func (u qemuUse) take(fd uintptr) error {
	for bit := range 4 {
		for base, set := range map[int64]bool{100: u.does>>bit&1 == 1, 200: u.shares>>bit&1 == 0} {
			lk := unix.Flock_t{Type: unix.F_RDLCK, Start: base + int64(bit), Len: 1}
			if set && unix.FcntlFlock(fd, unix.F_OFD_SETLK, &lk) != nil {
				return fmt.Errorf("byte %d cannot be locked", lk.Start)
			}
		}
	}
	for bit := range 4 {
		for base, look := range map[int64]bool{200: u.does>>bit&1 == 1, 100: u.shares>>bit&1 == 0} {
			lk := unix.Flock_t{Type: unix.F_WRLCK, Start: base + int64(bit), Len: 1}
			if look && (unix.FcntlFlock(fd, unix.F_OFD_GETLK, &lk) != nil || lk.Type != unix.F_UNLCK) {
				return fmt.Errorf("byte %d is locked", base+int64(bit))
			}
		}
	}
	return nil
}

func TestAsQEMU(t *testing.T) {
	var u qemuUse
	if _, err := fmt.Sscanf(os.Getenv(asQEMU), "%d %d", &u.does, &u.shares); err != nil {
		return // called by TestQEMUsLocks only
	}
	if err := u.take(3); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("locked")
	_, _ = os.Stdin.Read(make([]byte, 1)) // to the end
}

// childEnv is the environment for a child that runs this binary: with the race detector a
// process sleeps for a second before it exits, to report more, and the child has nothing to
// report.
func childEnv() []string {
	return append(os.Environ(), strings.TrimSpace("GORACE="+os.Getenv("GORACE")+" atexit_sleep_ms=0"))
}

// startQEMU has another process use the file at path so. It is nil when the file is
// refused to it.
func startQEMU(t *testing.T, path string, u qemuUse) (stop func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestAsQEMU$")
	cmd.Env, cmd.ExtraFiles = append(childEnv(), fmt.Sprintf("%s=%d %d", asQEMU, u.does, u.shares)), []*os.File{f}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	stop = func() {
		if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
			t.Error(err)
		}
	}
	line := make([]byte, 64)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	if said := string(line[:n]); !strings.HasPrefix(said, "locked") {
		stop()
		return nil
	}
	return stop
}

// QEMU and zvhost find out about each other, whoever comes first, and readers share.
func TestQEMUsLocks(t *testing.T) {
	for _, path := range []string{newPlain(t, 1<<20), imagetest.New(t, disktest.Small)} {
		for _, c := range []struct {
			what     string
			use      qemuUse
			readOnly bool
			both     bool
		}{
			{"two writers", qemuDisk, false, false},
			{"QEMU reads", qemuRDOnly, false, false},
			{"zvhost reads", qemuDisk, true, false},
			{"both read", qemuRDOnly, true, true},
			{"QEMU looks at a disk", qemuLooks, false, true},
			{"QEMU looks at one that is read", qemuLooks, true, true},
			{"QEMU resizes", qemuSizes, false, false},
			{"QEMU resizes what is read", qemuSizes, true, false},
		} {
			d, err := Open(path, disk.Options{ReadOnly: c.readOnly})
			if err != nil {
				t.Fatal(err)
			}
			stop := startQEMU(t, path, c.use)
			if (stop != nil) != c.both {
				t.Errorf("%s, zvhost first: both %v, want %v", c.what, stop != nil, c.both)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
			if stop == nil {
				if stop = startQEMU(t, path, c.use); stop == nil {
					t.Fatalf("%s: the locks stay when zvhost is gone", c.what)
				}
			}
			d, err = Open(path, disk.Options{ReadOnly: c.readOnly})
			switch {
			case (err == nil) != c.both:
				t.Errorf("%s, QEMU first: %v", c.what, err)
			case err == nil:
				err = d.Close()
			case disk.IsInUse(err) && strings.Contains(err.Error(), "in use by process "):
				err = nil
			}
			if err != nil {
				t.Errorf("%s: %v", c.what, err)
			}
			stop()
		}
	}
}

// Who only looks at a disk, before it is taken, disturbs nobody.
func TestLookTakesNoLock(t *testing.T) {
	path := newPlain(t, 1<<20)
	stop := startQEMU(t, path, qemuDisk)
	if stop == nil {
		t.Fatal("no lock")
	}
	defer stop()
	if _, err := Look(path, disk.Options{}); err != nil {
		t.Error(err)
	}
}

// A file with another format's header is served as it is, and the operator told, but
// not where raw was asked for.
func TestForeignFormats(t *testing.T) {
	said := func(path string, o disk.Options) (lines []string) {
		t.Helper()
		o.Warn = func(text string) { lines = append(lines, text) }
		d, err := Open(path, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		return lines
	}
	for _, k := range plain.Foreigns {
		path := newPlain(t, 1<<20)
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		at := k.At
		if at < 0 {
			at += 1 << 20
		}
		mark := k.Mark
		if mark == "QFI\xfb" {
			mark += "\x00\x00\x00\x03"
		}
		if _, err := f.WriteAt([]byte(mark), at); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		for _, o := range []disk.Options{{}, {ReadOnly: true}, {Direct: true}} {
			if lines := said(path, o); len(lines) != 1 || !strings.Contains(lines[0], k.Name) || !strings.Contains(lines[0], "--format raw") {
				t.Errorf("%s: %q", k.Name, lines)
			}
		}
		if lines := said(path, disk.Options{Format: disk.FormatRaw}); len(lines) != 0 {
			t.Errorf("%s as raw: %q", k.Name, lines)
		}
	}
	if lines := said(newPlain(t, 1<<20), disk.Options{}); len(lines) != 0 {
		t.Errorf("zeroes: %q", lines)
	}
	if lines := said(newPlain(t, 512), disk.Options{}); len(lines) != 0 {
		t.Errorf("one sector: %q", lines)
	}
}

// What create says of what is there already is no advice to destroy it.
func TestCreateLeavesWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	file, fifo := filepath.Join(dir, "file"), filepath.Join(dir, "fifo")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), unix.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{file: "choose another name", dir: "directory", fifo: "no regular file", "/dev/null": "no regular file"} {
		err := image.Create(path, disktest.Small)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "remove") {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}
