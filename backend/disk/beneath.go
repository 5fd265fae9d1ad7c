package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// LockBeneath takes, for the block device f, the locks of what it stands on: the file of a
// loop device has other users, who know nothing of the device. It follows partitions,
// devices made of others (dm, md) and loop devices over loop devices. The locks last until
// the files that it returns are closed; warn is told where it cannot take them.
func LockBeneath(f *os.File, readOnly bool, warn func(string)) (held []Beneath, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil, nil
	}
	b := beneath{readOnly: readOnly, warn: warn}
	if err := b.device(devNumber(st.Rdev), false, 0); err != nil {
		return nil, errors.Join(err, CloseAll(b.held))
	}
	return b.held, nil
}

// A Beneath is a file that a disk stands on.
type Beneath struct {
	File  *os.File
	Bytes int64 // that it has to have; 0 where only a part of the device over it is served
}

// CloseAll closes files.
func CloseAll(files []Beneath) (err error) {
	for _, b := range files {
		err = errors.Join(err, b.File.Close())
	}
	return err
}

type beneath struct {
	readOnly bool
	warn     func(string)
	held     []Beneath
}

// device goes down from the device with a number. part says that what is served is a part
// of it only, and that the other parts may have users of their own.
func (b *beneath) device(number string, part bool, depth int) error {
	const deepest = 16
	dir, err := filepath.EvalSymlinks("/sys/dev/block/" + number)
	if err != nil || depth == deepest {
		return nil // no sysfs: there is nothing to go by
	}
	if _, err := os.Lstat(dir + "/partition"); err == nil {
		dir, part = filepath.Dir(dir), true
	}
	slaves, _ := os.ReadDir(dir + "/slaves")
	for _, s := range slaves {
		if text, err := os.ReadFile(dir + "/slaves/" + s.Name() + "/dev"); err == nil {
			if err := b.device(trimmed(text), true, depth+1); err != nil {
				return err
			}
		}
	}
	path := backingFile(filepath.Base(dir))
	if path == "" {
		return nil
	}
	return b.lock(filepath.Base(dir), path, part, depth)
}

// backingFile is the path of the file of a loop device, as the kernel tells it; empty where
// it is none.
func backingFile(loop string) string {
	text, _ := os.ReadFile("/sys/block/" + loop + "/loop/backing_file")
	return strings.TrimSuffix(string(text), "\n")
}

// lock takes the locks of the file of a loop device.
func (b *beneath) lock(loop, path string, part bool, depth int) error {
	from, to, partly := loopRange(loop)
	least := int64(to)
	if part {
		least = 0
	}
	part = part || partly
	file, info, err := openBacking(loop, path, b.readOnly, part)
	if IsInUse(err) {
		return &InUseError{Text: fmt.Sprintf("its device %s %v", path, err)}
	}
	if err != nil {
		if holder := lockedBy(info, b.readOnly); holder != "" {
			return &InUseError{Text: fmt.Sprintf("its file %s is in use by %s; stop that first", path, holder)}
		}
		if b.warn != nil {
			b.warn(fmt.Sprintf("/dev/%s: its file %s cannot be locked (%v): make sure that nobody else uses it", loop, path, err))
		}
		return nil
	}
	b.held = append(b.held, Beneath{file, least})
	l := locker{readOnly: b.readOnly, part: part, loop: loop, from: from, to: to, warn: b.warn}
	if err := l.lock(file); err != nil {
		var used *InUseError
		if errors.As(err, &used) {
			return &InUseError{Text: fmt.Sprintf("its file %s is %v", path, strings.TrimPrefix(used.Error(), "is "))}
		}
		return fmt.Errorf("its file %s: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return err
	}
	return b.device(devNumber(st.Rdev), part, depth+1)
}

// openBacking opens the file at path, which the kernel says a loop device stands on, if it
// is that one still: path may have been removed, or be of another namespace. info is what
// the kernel says of it, nil where it cannot be asked.
func openBacking(loop, path string, readOnly, part bool) (f *os.File, info *unix.LoopInfo64, err error) {
	info = loopInfo(loop)
	modes := []int{os.O_RDWR, os.O_RDONLY} // over NFS flock needs a file that can be written
	if readOnly {
		modes = modes[1:]
	}
	open := OpenUnused
	if part { // a device that others use parts of cannot be opened exclusively
		open = func(path string, flags int) (*os.File, error) { return os.OpenFile(path, flags, 0) }
	}
	for _, mode := range modes {
		if f, err = open(path, mode|unix.O_NONBLOCK); err == nil || IsInUse(err) {
			break
		}
	}
	if err != nil {
		var of *os.PathError
		if errors.As(err, &of) {
			err = of.Err
		}
		return nil, info, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(f.Fd()), &st); err == nil && info != nil && (st.Dev != info.Device || st.Ino != info.Inode) {
		err = errors.New("another file stands there now")
	}
	if err != nil {
		return nil, info, errors.Join(err, f.Close())
	}
	return f, info, nil
}

// loopInfo is what the kernel says of a loop device, which asks the file system that its file
// is on; nil where the device cannot be asked.
func loopInfo(loop string) *unix.LoopInfo64 {
	dev, err := os.OpenFile("/dev/"+loop, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	info, err := unix.IoctlLoopGetStatus64(int(dev.Fd()))
	if err = errors.Join(err, dev.Close()); err != nil {
		return nil
	}
	return info
}

// loopRange is the part of its file that a loop device shows, in bytes; partly says that
// it was made for less than all of it.
func loopRange(loop string) (from, to uint64, partly bool) {
	var sectors, limit uint64
	for name, n := range map[string]*uint64{"loop/offset": &from, "loop/sizelimit": &limit, "size": &sectors} {
		if text, err := os.ReadFile("/sys/block/" + loop + "/" + name); err == nil {
			_, _ = fmt.Sscan(string(text), n)
		}
	}
	return from, from + sectors<<SectorShift, from != 0 || limit != 0
}

// lockedBy names who has a lock on the file of a loop device that this process cannot open,
// one that a user like this one minds; empty where nobody has (proc_locks(5)).
func lockedBy(info *unix.LoopInfo64, readOnly bool) (holder string) {
	if info == nil {
		return ""
	}
	inode := fmt.Sprintf("%02x:%02x:%d", unix.Major(info.Device), unix.Minor(info.Device), info.Inode)
	_ = eachLine("/proc/locks", func(w []string) {
		if len(w) < 8 || w[5] != inode || holder != "" {
			return
		}
		switch {
		case w[1] == "FLOCK" && (!readOnly || w[3] == "WRITE"):
		case w[1] == "OFDLCK" && (!readOnly || w[6] == fmt.Sprint(qemuPermBase+qemuWrite)):
		default:
			return
		}
		holder = unknownHolder
		if name, err := os.ReadFile("/proc/" + w[4] + "/comm"); err == nil {
			holder = fmt.Sprintf("process %s (%s)", w[4], trimmed(name))
		}
	})
	return holder
}
