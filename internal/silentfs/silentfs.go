package silentfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Size is how long the file is, in bytes.
const Size = 1 << 30

// The requests that are answered, or are not to be answered (enum fuse_opcode).
const (
	opLookup      = 1
	opForget      = 2
	opGetattr     = 3
	opOpen        = 14
	opStatfs      = 17
	opRelease     = 18
	opFlush       = 25
	opInit        = 26
	opInterrupt   = 36
	opBatchForget = 42
)

const (
	rootNode, fileNode = 1, 2
	headerIn           = 40 // struct fuse_in_header
	headerOut          = 16 // struct fuse_out_header
)

var order = binary.NativeEndian

// An FS is mounted until the end of the test.
type FS struct {
	dir    string
	dev    *os.File
	silent atomic.Bool
	unread atomic.Int64        // requests that came since Silence and wait for an answer
	heard  func(thread uint32) // of each of them, if it is set; called by one goroutine
	ended  chan struct{}
}

// Mount mounts one. It needs a process that may mount: root, or a user and a mount
// namespace of its own.
func Mount(t testing.TB) *FS {
	t.Helper()
	f, err := mount(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Unmount)
	return f
}

func mount(dir string, heard func(thread uint32)) (*FS, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/fuse: %w (load the kernel's module: modprobe fuse)", err)
	}
	f := &FS{dir: dir, heard: heard, ended: make(chan struct{})}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,allow_other", fd, os.Getuid(), os.Getgid())
	if err := unix.Mount("silentfs", f.dir, "fuse.silentfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("mounting a FUSE file system: %w (run the tests as root, or under 'unshare --user --map-root-user --mount')", err)
	}
	// The runtime polls for it from here on: before the mount there is nothing to poll for
	// (fuse_dev_poll).
	f.dev = os.NewFile(uintptr(fd), "/dev/fuse")
	go f.serve()
	return f, nil
}

// Open opens the file, to be read and written. The caller closes it, after Unmount if
// the file system is silent.
func (f *FS) Open(t testing.TB) int {
	t.Helper()
	fd, err := unix.Open(f.Path(), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// Path is the file's.
func (f *FS) Path() string { return f.dir + "/file" }

// Silence ends all answers.
func (f *FS) Silence() { f.silent.Store(true) }

// Waiting is how many requests have come since Silence.
func (f *FS) Waiting() int64 { return f.unread.Load() }

// Unmount takes the file system away: whoever waits for it gets an error. A second call
// does nothing.
func (f *FS) Unmount() {
	_ = unix.Unmount(f.dir, unix.MNT_DETACH)
	_ = f.dev.Close() // the kernel aborts the connection (fuse_dev_release)
	<-f.ended
}

func (f *FS) serve() {
	defer close(f.ended)
	b := make([]byte, 1<<17)
	for {
		n, err := f.dev.Read(b)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR) { // a request that was given up
			continue
		} else if err != nil || n < headerIn {
			return
		}
		f.request(b[:n])
	}
}

// request answers one request, or does not.
func (f *FS) request(b []byte) {
	op, unique, node := order.Uint32(b[4:]), order.Uint64(b[8:]), order.Uint64(b[16:])
	switch {
	case op == opForget || op == opBatchForget || op == opInterrupt:
		return // they have no answer
	case f.silent.Load():
		if f.heard != nil {
			f.heard(order.Uint32(b[32:]))
		}
		f.unread.Add(1)
		return
	}
	var errno unix.Errno
	var out []byte
	switch op {
	case opInit:
		out = order.AppendUint32(order.AppendUint32(nil, 7), 31) // version; the kernel's may be higher
		out = append(out, make([]byte, 64-len(out))...)
		order.PutUint32(out[20:], 4096) // max_write
	case opLookup:
		out = order.AppendUint64(order.AppendUint64(nil, fileNode), 0)
		out = append(out, make([]byte, 24)...) // nothing of it may be kept
		out = attributes(out, fileNode)
	case opGetattr:
		out = attributes(make([]byte, 16), node)
	case opOpen:
		out = make([]byte, 16)
	case opStatfs:
		out = make([]byte, 80)
	case opFlush, opRelease:
	default:
		errno = unix.ENOSYS
	}
	answer := order.AppendUint32(nil, uint32(headerOut+len(out)))
	answer = order.AppendUint32(answer, uint32(-int32(errno)))
	answer = append(order.AppendUint64(answer, unique), out...)
	_, _ = f.dev.Write(answer) // a request that was given up takes none
}

// attributes appends a struct fuse_attr.
func attributes(b []byte, node uint64) []byte {
	size, mode := uint64(Size), uint32(unix.S_IFREG|0o666)
	if node == rootNode {
		size, mode = 0, unix.S_IFDIR|0o777
	}
	b = order.AppendUint64(order.AppendUint64(b, node), size)
	b = append(b, make([]byte, 44)...)                      // blocks, and times
	for _, v := range []uint32{mode, 1, 0, 0, 0, 4096, 0} { // links, owner, device, block size, flags
		b = order.AppendUint32(b, v)
	}
	return b
}
