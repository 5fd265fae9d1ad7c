package disk

import (
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// This file is about finding files and devices among those of other programs without a
// request to the file systems that these are on. The server of a network file system or of
// FUSE may not answer, and who calls stat(2) on such a file, or on a path that leads through
// one, waits for it. What the kernel has in memory it tells without a wait: /proc, sysfs,
// and statx(2) with AT_STATX_DONT_SYNC of a file of a local file system.

// A mount is one line of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	id       string
	dev      string // of its file system: major:minor
	at       string // where it is mounted
	fs       string // the file system's type
	source   string
	readOnly bool // the file system, and not this mount of it only
}

// mountsSeenBy are the mounts in the namespace of a process, "self" for this one.
func mountsSeenBy(pid string) (mounts []mount) {
	_ = eachLine("/proc/"+pid+"/mountinfo", func(f []string) {
		if m, ok := parseMount(f); ok {
			mounts = append(mounts, m)
		}
	})
	return mounts
}

// parseMount parses the words of a line such as
// "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue".
func parseMount(f []string) (m mount, ok bool) {
	dash := slices.Index(f, "-")
	if dash < 6 || dash+3 >= len(f) {
		return m, false
	}
	return mount{
		id: f[0], dev: f[2], at: unescapeMount.Replace(f[4]),
		fs: f[dash+1], source: unescapeMount.Replace(f[dash+2]),
		readOnly: slices.Contains(strings.Split(f[dash+3], ","), "ro"),
	}, true
}

// unescapeMount replaces what the kernel writes for the characters that would end a word
// or a line (mangle() in fs/proc_namespace.c).
var unescapeMount = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#")

// neverWaits says that a file of m that is open, or a path within m, is looked at without a
// wait for another machine or process. The root is among them, whatever it is: this
// process does not run without it.
func (m *mount) neverWaits() bool {
	return m.at == "/" || slices.Contains([]string{
		"bcachefs", "btrfs", "devtmpfs", "ext2", "ext3", "ext4", "f2fs", "ramfs", "rootfs", "tmpfs", "vfat", "xfs", "zfs",
	}, m.fs)
}

// A descriptor is what the kernel tells of one without asking the file system. It is empty
// of what has no path.
type descriptor struct {
	mountID string
	inode   string // empty before Linux 5.14
}

// fdInfo reads /proc/PID/fdinfo/FD (proc_pid_fdinfo(5)), but not of an epoll: that waits
// for its mutex, which epoll_ctl(2) holds while it asks a file whether it is ready
// (ep_show_fdinfo).
func fdInfo(pid, fd string) (o descriptor) {
	if path, err := os.Readlink("/proc/" + pid + "/fd/" + fd); err != nil || !strings.HasPrefix(path, "/") {
		return o
	}
	_ = eachLine("/proc/"+pid+"/fdinfo/"+fd, func(f []string) {
		switch {
		case len(f) != 2:
		case f[0] == "mnt_id:":
			o.mountID = f[1]
		case f[0] == "ino:":
			o.inode = f[1]
		}
	})
	return o
}

// A mountTable finds mounts by their numbers, which are the same in all namespaces.
type mountTable struct {
	known map[string]mount
	read  map[string]bool // the processes whose mounts are known
}

func newMountTable() *mountTable {
	t := &mountTable{known: map[string]mount{}, read: map[string]bool{}}
	t.add("self")
	return t
}

func (t *mountTable) add(pid string) {
	for _, m := range mountsSeenBy(pid) {
		t.known[m.id] = m
	}
	t.read[pid] = true
}

// of is the mount by which a process has a file open. One that was detached is not found,
// nor are those of pipes and sockets.
func (t *mountTable) of(pid, id string) (m mount, ok bool) {
	if m, ok = t.known[id]; !ok && id != "" && !t.read[pid] {
		t.add(pid)
		m, ok = t.known[id]
	}
	return m, ok
}

// statCached is statx(2) of path with what the kernel has in memory. The caller has made
// sure that the path leads through no file system that may wait: its names may be looked up.
func statCached(dir int, path string, flags int) (st unix.Statx_t, err error) {
	err = unix.Statx(dir, path, flags|unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE|unix.STATX_INO, &st)
	return st, err
}

func isDevice(st *unix.Statx_t, dev uint64) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFBLK && unix.Mkdev(st.Rdev_major, st.Rdev_minor) == dev
}

// sameFile finds a file, by whatever name and mount, among the descriptors of processes.
type sameFile struct {
	mounts *mountTable
	own    descriptor
	dev    string // of the file system that it is on
	path   string // as the kernel tells it
	st     unix.Statx_t
}

// newSameFile looks for f's file.
func newSameFile(f *os.File) (*sameFile, error) {
	fd := fdName(f)
	s := &sameFile{mounts: newMountTable(), own: fdInfo("self", fd)}
	var err error
	if s.path, err = os.Readlink("/proc/self/fd/" + fd); err != nil {
		return nil, err
	}
	if m, ok := s.mounts.of("self", s.own.mountID); ok {
		s.dev = m.dev
	}
	s.st, err = statCached(int(f.Fd()), "", unix.AT_EMPTY_PATH)
	return s, err
}

// is says whether a descriptor of a process is of this file. It asks at most the file
// system that the file itself is on.
func (s *sameFile) is(pid, fd string) bool {
	o := fdInfo(pid, fd)
	if o.inode != s.own.inode || o.mountID == "" || s.dev == "" {
		return false
	}
	if m, ok := s.mounts.of(pid, o.mountID); !ok || m.dev != s.dev {
		return false
	}
	st, err := statCached(unix.AT_FDCWD, "/proc/"+pid+"/fd/"+fd, 0)
	return err == nil && s.equal(&st)
}

func (s *sameFile) equal(st *unix.Statx_t) bool {
	return st.Dev_major == s.st.Dev_major && st.Dev_minor == s.st.Dev_minor && st.Ino == s.st.Ino
}

// isAt says whether this file stands at path, which the kernel has told and which has no
// symbolic links. It says no, and asks nobody, where path cannot be looked at without a wait.
func (s *sameFile) isAt(path string) bool {
	if !s.onOwn(path) {
		return false
	}
	st, err := statCached(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && s.equal(&st)
}

// isUnder says whether the loop device of this name stands on this file, by a name that has
// been removed since; path is what the kernel tells of it. Another name of the file (link(2))
// may remain. Only the device says then which file it is, and asks the file system that the
// removed name was on: it is the file's own.
func (s *sameFile) isUnder(loop, path string) bool {
	removed, ok := strings.CutSuffix(path, deletedSuffix)
	if !ok || !s.onOwn(removed) {
		return false
	}
	info := loopInfo(loop)
	return info != nil && info.Inode == s.st.Ino && info.Device == unix.Mkdev(s.st.Dev_major, s.st.Dev_minor)
}

// deletedSuffix is what the kernel adds to the path of a file that was removed (d_path).
const deletedSuffix = " (deleted)"

// onOwn says whether path is on the file system that this file is on, and leads through none
// that may wait, but for one through which the file itself was found.
func (s *sameFile) onOwn(path string) bool {
	var last mount
	for _, m := range mountsSeenBy("self") {
		switch {
		case !within(path, m.at):
			continue
		case !m.neverWaits() && m.dev != s.dev && !within(s.path, m.at):
			return false
		}
		if len(m.at) >= len(last.at) {
			last = m // the later one is above the earlier one
		}
	}
	return last.dev == s.dev && s.dev != ""
}

// within says whether path is dir or lies under it. Both are absolute and clean.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// deviceNode says whether a descriptor of a process is of a node of a block device. Nodes on
// file systems that may wait are not looked at.
func deviceNode(dev uint64) func(pid, fd string) bool {
	mounts := newMountTable()
	return func(pid, fd string) bool {
		m, ok := mounts.of(pid, fdInfo(pid, fd).mountID)
		if !ok || !m.neverWaits() {
			return false
		}
		st, err := statCached(unix.AT_FDCWD, "/proc/"+pid+"/fd/"+fd, 0)
		return err == nil && isDevice(&st, dev)
	}
}

// namedInDev says whether name, which the kernel tells of a mount or of swap space and which
// can be any text, is a node of a block device in /dev. Nothing outside of /dev is looked at.
func namedInDev(name string, dev uint64) bool {
	under, ok := strings.CutPrefix(name, "/dev/")
	if !ok {
		return false
	}
	dir, err := unix.Open("/dev", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(dir) }()
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(dir, under, &how)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	st, err := statCached(fd, "", unix.AT_EMPTY_PATH)
	return err == nil && isDevice(&st, dev)
}
