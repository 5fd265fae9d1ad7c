package foreign

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind is what a descriptor is, as far as it matters.
type Kind uint8

const (
	// Unknown descriptors have not been looked at.
	Unknown Kind = iota
	// Eventfd never waits when it is closed, or read with RWF_NOWAIT.
	Eventfd
	// Pipe is made by pipe(2), and has no name in a file system.
	Pipe
	// UnixStream is an AF_UNIX stream socket.
	UnixStream
	// Memory is a memfd, a file of tmpfs or hugetlbfs, or a regular file of a local file
	// system: a page of it that is touched waits for this machine only.
	Memory
	// Other is anything else that can be closed, if on a thread of its own.
	Other
	// Stuck is what close(2) may wait for without an end that even SIGKILL could bring: a
	// file of a file system that is not known to be local. It stays open: see holder.go.
	Stuck
)

// local are the file systems whose regular files are Memory. FUSE, overlayfs (which may
// lie on FUSE), and those of a network are not among them.
var local = []string{"ext2", "ext3", "ext4", "xfs", "f2fs", "btrfs", "bcachefs", "zfs", "tmpfs", "ramfs", "hugetlbfs"}

// Inspect returns the kind of fd, and its name for a log. It waits for no other process.
//
// fstat and fstatfs of a file of FUSE send a request to its server (fuse_getattr,
// fuse_statfs), and once that has read it not even SIGKILL ends the wait
// (request_wait_answer): the process could not end. The calls below send no such request. The
// link of /proc/self/fd is made by d_path; F_GET_SEALS compares the file's operations
// (memfd_file_seals_ptr); statx with AT_STATX_DONT_SYNC takes what is cached
// (fuse_update_get_attr), in network file systems, too, but for 9p, which only root can
// mount.
func Inspect(fd int) (Kind, string) {
	name, err := link(fd)
	switch {
	case err != nil:
		return Stuck, fmt.Sprintf("not known (/proc/self/fd: %v; /proc has to be mounted)", err)
	case name == "anon_inode:[eventfd]":
		return Eventfd, "an eventfd"
	case strings.HasPrefix(name, "anon_inode:"):
		return Other, fmt.Sprintf("an anonymous inode %q", strings.TrimPrefix(name, "anon_inode:"))
	case strings.HasPrefix(name, "pipe:["):
		return Pipe, "a pipe"
	case strings.HasPrefix(name, "socket:["):
		return socket(fd)
	case !strings.HasPrefix(name, "/"): // of a pseudo file system: namespaces
		return Other, fmt.Sprintf("%q", name)
	}
	return file(fd, name)
}

// link is what /proc/self/fd says of fd. A path, which may have any text in it, begins
// with a slash, and nothing else does.
func link(fd int) (string, error) {
	var b [unix.PathMax]byte
	n, err := unix.Readlink("/proc/self/fd/"+strconv.Itoa(fd), b[:])
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

func socket(fd int) (Kind, string) {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return Stuck, fmt.Sprintf("a socket (SO_DOMAIN: %v)", err)
	}
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	switch {
	case err != nil:
		return Stuck, fmt.Sprintf("a socket (SO_TYPE: %v)", err)
	case domain == unix.AF_UNIX && typ == unix.SOCK_STREAM:
		return UnixStream, "a UNIX stream socket"
	case domain == unix.AF_UNIX:
		return Other, "a UNIX socket that is no stream"
	}
	// Its close waits for as long as the sender likes when SO_LINGER is set (inet_release).
	// To clear it takes the socket's lock, for which there is no limit either. At the end
	// of the process the kernel does not linger.
	if l, err := unix.GetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER); err != nil || l.Onoff != 0 {
		return Stuck, fmt.Sprintf("a socket of address family %d that lingers", domain)
	}
	return Other, fmt.Sprintf("a socket of address family %d", domain)
}

// file looks at what has a name in a file system.
func file(fd int, name string) (Kind, string) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return Stuck, fmt.Sprintf("%q (F_GETFL: %v)", name, err)
	}
	// A file of overlayfs that can be written has its place for good; one that can only be
	// read may be moved to another file system below it (ovl_real_file).
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err == nil && flags&unix.O_ACCMODE == unix.O_RDWR {
		return Memory, fmt.Sprintf("a memory file, %q", name)
	}
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE|unix.STATX_SUBVOL, &st); err != nil || st.Mask&unix.STATX_TYPE == 0 {
		return Stuck, fmt.Sprintf("%q (its type is not known: %v)", name, err)
	}
	what, regular := "a file", false
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		regular = true
	case unix.S_IFDIR:
		what = "a directory"
	// These are served by a driver, or the kernel, wherever they have their names
	// (init_special_inode).
	case unix.S_IFCHR:
		return Other, fmt.Sprintf("a character device, %q", name)
	case unix.S_IFBLK:
		return Other, fmt.Sprintf("a block device, %q", name)
	case unix.S_IFIFO:
		return Other, fmt.Sprintf("a named pipe, %q", name)
	default:
		what = "neither a file nor a device"
	}
	fs, isLocal := fileSystem(&st)
	switch {
	case !isLocal:
		return Stuck, fmt.Sprintf("%s, %q, of a file system (%s, device %d:%d) that is not known to be local", what, name, fs, st.Dev_major, st.Dev_minor)
	case regular:
		return Memory, fmt.Sprintf("%s, %q, of %s", what, name, fs)
	}
	return Other, fmt.Sprintf("%s, %q", what, name)
}

// fileSystem finds the file system of a file by its device number, and says whether it is
// a local one. It knows those that are mounted in this process's namespace, wherever the
// sender has them mounted. The subvolumes of btrfs have device numbers of their own; only
// local file systems have subvolumes (STATX_SUBVOL, from Linux 6.10 on).
func fileSystem(st *unix.Statx_t) (name string, isLocal bool) {
	if st.Mask&unix.STATX_SUBVOL != 0 {
		return "with subvolumes", true
	}
	// proc_pid_mountinfo(5): "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw"
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err.Error(), false
	}
	dev := fmt.Sprintf("%d:%d", st.Dev_major, st.Dev_minor)
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		if f := strings.Fields(before); len(f) < 3 || f[2] != dev {
			continue
		}
		if f := strings.Fields(after); len(f) > 0 {
			return f[0], slices.Contains(local, f[0])
		}
	}
	return "not mounted here", false
}
