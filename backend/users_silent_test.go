package backend

import (
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/internal/loopdev"
	"github.com/zvhost/zvhost/internal/silentfs"
)

// Who looks for the users of a disk asks nothing of the file systems that other files are
// on: one that does not answer would have the start wait for ever.
func TestUsersAreFoundBesideASilentFileSystem(t *testing.T) {
	for what, prepare := range map[string]func(*testing.T, *silentfs.Apart){
		"a process has its file open": func(t *testing.T, fs *silentfs.Apart) { fs.Holding(t) },
		"a loop device is over its file": func(t *testing.T, fs *silentfs.Apart) {
			loopdev.Attach(t, fs.Path(), loopdev.Options{})
			t.Cleanup(fs.Unmount)
		},
		"an epoll waits for its file": func(t *testing.T, fs *silentfs.Apart) {
			fd, err := unix.Open(fs.Path(), unix.O_RDWR|unix.O_CLOEXEC, 0) // the runtime does not poll for it
			if err != nil {
				t.Fatal(err)
			}
			ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			fs.Silence(t)
			done := make(chan struct{})
			go func() {
				defer close(done)
				// Not unix.EpollCtl, of which the runtime does not know that it may wait.
				_, _, _ = unix.Syscall6(unix.SYS_EPOLL_CTL, uintptr(ep), unix.EPOLL_CTL_ADD, uintptr(fd),
					uintptr(unsafe.Pointer(&unix.EpollEvent{Events: unix.EPOLLIN})), 0, 0)
			}()
			t.Cleanup(func() {
				fs.Unmount()
				<-done
				_, _ = unix.Close(fd), unix.Close(ep)
			})
			for fs.Waiting(t) == 0 {
				_, _ = unix.Poll(nil, 1)
			}
		},
		"the source of a mount is its file": func(t *testing.T, fs *silentfs.Apart) {
			dir := t.TempDir()
			if err := unix.Mount(fs.Path(), dir, "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := unix.Unmount(dir, 0); err != nil {
					t.Error(err)
				}
			})
		},
	} {
		t.Run(what, func(t *testing.T) {
			path := newPlain(t, 1<<20)
			stop := startQEMU(t, path, qemuDisk)
			if stop == nil {
				t.Fatal("no lock")
			}
			defer stop()
			dev := loopdev.Attach(t, loopdev.File(t, 1<<20), loopdev.Options{})
			other, err := os.OpenFile(dev.Path, os.O_RDWR|unix.O_EXCL, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			fs := silentfs.MountApart(t)
			prepare(t, fs)
			fs.Silence(t)
			before := fs.Waiting(t)
			done := make(chan struct{})
			go func() {
				defer close(done)
				wantRefused(t, path, disk.Options{}, "in use by process ")
				wantRefused(t, path, disk.Options{ReadOnly: true}, "in use by process ")
				wantRefused(t, dev.Path, disk.Options{}, "is in use: open in process ")
				wantServed(t, newPlain(t, 1<<20), disk.Options{})
			}()
			for waits := true; waits; {
				select {
				case <-done:
					waits = false
				default:
					_, _ = unix.Poll(nil, 1)
					if n := fs.Waiting(t); n != before {
						t.Errorf("%d requests were sent to the silent file system", n-before)
						fs.Unmount()
						<-done
						return
					}
				}
			}
		})
	}
}
