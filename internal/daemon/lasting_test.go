package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image"
)

// What stays until somebody sees to it, and what may get better by itself, or has a guest
// that waits.
func TestLasting(t *testing.T) {
	missing := &fs.PathError{Op: "open", Path: "x", Err: unix.ENOENT}
	for _, tt := range []struct {
		err  error
		file string
		h    passedOn
		want bool
	}{
		{missing, "disk.zvh", passedOn{}, true},
		{missing, "/dev/vg/vm1", passedOn{}, false}, // it may still come
		{missing, "disk.zvh", passedOn{guestWaits: true}, false},
		{missing, "disk.zvh", passedOn{serving: true}, false},
		{fmt.Errorf("the disk: %w", unix.EACCES), "f", passedOn{}, true},
		{unix.EPERM, "/dev/sdz", passedOn{}, true},
		{fmt.Errorf("giving the socket to its group: %w", user.UnknownGroupError("nobodys")), "f", passedOn{}, true},
		{fmt.Errorf("f: %w", image.ErrNotImage), "f", passedOn{}, true},
		{fmt.Errorf("f: %w", disk.ErrUnfit), "f", passedOn{}, true},
		{fmt.Errorf("f: %w", disk.ErrUnfit), "f", passedOn{guestWaits: true}, false},
		{fmt.Errorf("f: %w", disk.ErrDamaged), "f", passedOn{}, true},
		{fmt.Errorf("f: %w", disk.ErrDamaged), "/dev/shm/f", passedOn{}, true},
		{fmt.Errorf("f: %w", disk.ErrDamaged), "f", passedOn{guestWaits: true}, false},
		{fmt.Errorf("--aio=io_uring: %w", unix.ENOSYS), "f", passedOn{}, true},
		{fmt.Errorf("--aio=native: %w", unix.EAGAIN), "f", passedOn{}, false},
		{fmt.Errorf("create f: %w", unix.EFBIG), "f", passedOn{}, true}, // its file system has no file of that size
		{errors.Join(lasting(errors.New("not a socket")), nil), "f", passedOn{}, true},
		{unix.ENOSPC, "f", passedOn{}, false},
		{unix.ENOMEM, "f", passedOn{}, false},
		{unix.EMFILE, "f", passedOn{}, false},
		{unix.EBUSY, "f", passedOn{}, false},
		{unix.EIO, "f", passedOn{}, false},
		{errors.New("another process is using it"), "f", passedOn{}, false},
	} {
		if got := Lasting(tt.h.startFailed(&Config{BlkFile: tt.file}, tt.err)); got != tt.want {
			t.Errorf("%v, %s, %+v: %v", tt.err, tt.file, tt.h, got)
		}
	}
	if (new(passedOn)).startFailed(&Config{}, nil) != nil {
		t.Error("an error was made of none")
	}
}

// A path that is not a socket is refused in words that nobody loses a file by, and the file
// is as it was.
func TestNotASocket(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, e := range []error{
		os.WriteFile("disk.zvh", []byte("data"), 0o600), os.Mkdir("dir", 0o700), os.Symlink("disk.zvh", "link"), unix.Mkfifo("pipe", 0o600),
		os.WriteFile("s~", []byte("a backup"), 0o600),
	} {
		if e != nil {
			t.Fatal(e)
		}
	}
	for _, tt := range []struct{ path, want string }{
		{"disk.zvh", "--socket-path=disk.zvh: is a file, not a socket: give another path"},
		{"dir", "is a directory, not a socket: give another path"},
		{"link", "is a symbolic link, not a socket: give another path"},
		{"pipe", "is a named pipe, not a socket: give another path"},
		{"s", "--socket-path=s~: is a file, not a socket: give another path"},
		{"/etc/passwd", "--socket-path=/etc/passwd: is a file, not a socket: give another path"},
		{"/dev/null", "is a device, not a socket: give another path"},
	} {
		_, err := listen(endpoint{option: "--socket-path", path: tt.path, mode: 0o600})
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "remove") {
			t.Errorf("%s: %v, want %q", tt.path, err, tt.want)
		}
	}
	left, err := filepath.Glob("*")
	text, rerr := os.ReadFile("s~")
	if err != nil || rerr != nil || len(left) != 5 || string(text) != "a backup" {
		t.Errorf("%q, %q, %v, %v", left, text, err, rerr)
	}
}
