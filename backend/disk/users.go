package disk

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// This file is about who else uses what is to be served, and how that is told in words.

// OpenUnused opens the file or block device at path. A device that is to be written is
// opened with O_EXCL, which fails while it is mounted, part of another device, swap
// space, or open like this by somebody else through whatever node (blkdev_get_by_dev).
//
// A reader cannot keep O_EXCL, for it would keep other readers out. It asks whether it
// could have it, and makes do with a device that is only mounted read-only.
func OpenUnused(path string, flags int) (*os.File, error) {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return os.OpenFile(path, flags, 0) // which has the error, if any
	}
	path = usualNode(path, st.Rdev, flags)
	f, err := OpenExclusively(path, flags)
	if flags&(unix.O_RDWR|unix.O_WRONLY) != 0 {
		if err == nil {
			err = Writable(f)
		}
		return f, err
	}
	if err == nil {
		err = f.Close()
	} else if IsInUse(err) && onlyMountedReadOnly(st.Rdev) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	return os.OpenFile(path, flags, 0)
}

// usualNode is the node in /dev of the device that path is one of, if it may be opened
// too: flock is of a node, and users find out about each other by that of the same one.
func usualNode(path string, dev uint64, flags int) string {
	usual := path
	_ = eachLine("/sys/dev/block/"+devNumber(dev)+"/uevent", func(f []string) {
		if len(f) == 1 && strings.HasPrefix(f[0], "DEVNAME=") {
			usual = "/dev/" + strings.TrimPrefix(f[0], "DEVNAME=")
		}
	})
	may := uint32(unix.R_OK)
	if flags&(unix.O_RDWR|unix.O_WRONLY) != 0 {
		may |= unix.W_OK
	}
	var st unix.Stat_t
	if unix.Stat(usual, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK || st.Rdev != dev ||
		unix.Faccessat(unix.AT_FDCWD, usual, may, unix.AT_EACCESS) != nil {
		return path
	}
	return usual
}

// Writable says why f, a block device that is open to be written, cannot be: the kernel
// opens one that is read-only all the same, and then fails each write. It closes it then.
func Writable(f *os.File) error {
	if n, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKROGET); err != nil || n == 0 {
		return nil
	}
	return errors.Join(fmt.Errorf("the device is read-only (%w): serve it with --read-only", unix.EROFS), f.Close())
}

// OpenExclusively opens a block device with O_EXCL. A process that has ended may leave
// it for longer (see LockFile), and whoever only asks has it for a moment, so a user
// who cannot be named is waited for.
func OpenExclusively(path string, flags int) (*os.File, error) {
	const step, patience = 50 * time.Millisecond, 3 * time.Second
	for waited := time.Duration(0); ; waited += step {
		f, err := os.OpenFile(path, flags|unix.O_EXCL, 0)
		if !errors.Is(err, unix.EBUSY) {
			return f, err
		}
		users := deviceUsers(path)
		switch {
		case len(users) > 0:
			return nil, &InUseError{Text: "is in use: " + strings.Join(users, ", ") + "; stop that first"}
		case waited >= patience:
			return nil, &InUseError{Text: "is in use: it is mounted, part of another device, or opened by another program; stop that first"}
		}
		time.Sleep(step)
	}
}

// mountsOf are the mounts of a block device. Some file systems, btrfs for one, have a
// device number of their own, so the source's name counts as well.
func mountsOf(dev uint64) (mounts []mount) {
	for _, m := range mountsSeenBy("self") {
		if m.dev == devNumber(dev) || namedInDev(m.source, dev) {
			mounts = append(mounts, m)
		}
	}
	return mounts
}

// onlyMountedReadOnly says that nobody can change the device: it is mounted, and that
// read-only.
func onlyMountedReadOnly(dev uint64) bool {
	mounts := mountsOf(dev)
	return len(mounts) > 0 && len(partHolders(dev)) == 0 &&
		!slices.ContainsFunc(mounts, func(m mount) bool { return !m.readOnly })
}

// deviceUsers says who uses the block device at path or a partition of it, as far as this
// process may know; empty when nobody is found.
func deviceUsers(path string) (users []string) {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return nil
	}
	dev := st.Rdev
	for _, m := range mountsOf(dev) {
		users = append(users, "mounted at "+m.at)
	}
	users = append(users, partHolders(dev)...)
	if len(users) == 0 {
		for _, who := range processesWith(0, deviceNode(dev)) {
			users = append(users, "open in "+who)
		}
	}
	return users
}

// partHolders are swap space on a device, devices that it is part of, and who uses its
// partitions.
func partHolders(dev uint64) (users []string) {
	_ = eachLine("/proc/swaps", func(f []string) {
		if len(f) > 1 && f[1] == "partition" && namedInDev(f[0], dev) { // proc_swaps(5)
			users = append(users, "swap space")
		}
	})
	dir := "/sys/dev/block/" + devNumber(dev)
	holders, _ := os.ReadDir(dir + "/holders")
	for _, h := range holders {
		users = append(users, "part of "+h.Name())
	}
	parts, _ := filepath.Glob(dir + "/*/partition")
	for _, part := range parts {
		part = filepath.Dir(part)
		text, err := os.ReadFile(part + "/dev")
		var major, minor uint32
		if _, serr := fmt.Sscanf(string(text), "%d:%d", &major, &minor); err != nil || serr != nil {
			continue
		}
		sub := unix.Mkdev(major, minor)
		for _, m := range mountsOf(sub) {
			users = append(users, "its partition "+filepath.Base(part)+" is mounted at "+m.at)
		}
		for _, u := range partHolders(sub) {
			users = append(users, "its partition "+filepath.Base(part)+" is "+u)
		}
	}
	return users
}

func devNumber(dev uint64) string { return fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)) }

// processesWith names processes, but for one number, that have a descriptor of which is says
// so; one of each will do, and not more than three.
func processesWith(but int, is func(pid, fd string) bool) (users []string) {
	procs, _ := os.ReadDir("/proc")
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == but {
			continue
		}
		dir := "/proc/" + p.Name()
		fds, _ := os.ReadDir(dir + "/fd") // another user's cannot be read
		for _, fd := range fds {
			if !is(p.Name(), fd.Name()) {
				continue
			}
			if name, err := os.ReadFile(dir + "/comm"); err == nil {
				users = append(users, fmt.Sprintf("process %d (%s)", pid, trimmed(name)))
			}
			break
		}
		if len(users) == 3 {
			break
		}
	}
	return users
}

// loopOver names a loop device over what is served of a file, but for the one that is
// served itself: one that writes, or where the file is to be written whatever there is;
// empty when there is none.
func (l *locker) loopOver(f *os.File) string {
	backing, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if len(backing) == 0 {
		return ""
	}
	own, err := newSameFile(f)
	if err != nil {
		return ""
	}
	for _, path := range backing {
		dev := filepath.Dir(filepath.Dir(path))
		loop := filepath.Base(dev)
		name := backingFile(loop)
		if name == "" || loop == l.loop {
			continue // detached meanwhile, or served
		}
		readOnly, err := os.ReadFile(dev + "/ro")
		if l.readOnly && err == nil && trimmed(readOnly) != "0" {
			continue
		}
		if from, to, _ := loopRange(loop); from < l.to && l.from < to && (own.isAt(name) || own.isUnder(loop, name)) {
			return "/dev/" + loop
		}
	}
	return ""
}

func fdName(f *os.File) string { return strconv.Itoa(int(f.Fd())) }

// trimmed is what a file of the kernel's says.
func trimmed(text []byte) string { return strings.TrimSpace(string(text)) }

// eachLine calls f with the words of each line of a file.
func eachLine(path string, f func(words []string)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		f(strings.Fields(lines.Text()))
	}
	return lines.Err()
}
