package disk

import (
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// LockFile takes the locks that keep others from writing a disk, one writer or any
// number of readers: flock, between zvhosts, and QEMU's image locks. The kernel
// lets them go with the file.
func LockFile(f *os.File, readOnly bool) error { return LockFileOrWarn(f, readOnly, nil) }

// LockFileOrWarn is LockFile; warn is told where QEMU's locks cannot be had.
func LockFileOrWarn(f *os.File, readOnly bool, warn func(string)) error {
	l := locker{readOnly: readOnly, to: math.MaxUint64, warn: warn}
	return l.lock(f)
}

// A locker takes locks.
type locker struct {
	readOnly bool
	part     bool         // who uses other parts of the file is not minded
	loop     string       // the loop device over the file that is served, if it is one
	from, to uint64       // the bytes of the file that are served
	warn     func(string) // is told where QEMU's locks cannot be had
}

func (l *locker) lock(f *os.File) error {
	how := unix.LOCK_EX
	if l.readOnly || l.part {
		how = unix.LOCK_SH
	}
	err := retryLock(func() (string, error) {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return "", err
		}
		return LockHolder(f), errLocked
	})
	if err != nil {
		return err
	}
	if loop := l.loopOver(f); loop != "" {
		return &InUseError{Text: fmt.Sprintf("in use by %s, a loop device over it; detach that first (losetup -d %s)", loop, loop)}
	}
	return l.lockForQEMU(f)
}

// errLocked is that somebody else has a lock.
var errLocked = errors.New("locked")

// retryLock takes a lock by try, which names who has it when it fails with errLocked.
func retryLock(try func() (holder string, err error)) error {
	const step = 5 * time.Millisecond
	for waited := time.Duration(0); ; waited += step {
		holder, err := try()
		if err != errLocked {
			if err != nil {
				return fmt.Errorf("lock: %w", err)
			}
			return nil
		}
		// Whoever only looks whether the image is in use (inUse) holds the lock for
		// an instant; that is no reason not to start. A process that was killed may
		// leave it for longer: the kernel takes an io_uring apart, which has the file
		// open, in its own time.
		switch {
		case waited < 100*time.Millisecond:
		case waited > 3*time.Second || holder != unknownHolder:
			return &InUseError{Holder: holder}
		}
		time.Sleep(step)
	}
}

// UnlockFile lets the locks go. Closing the file does so only when nothing else
// has it open, which an io_uring may still have.
func UnlockFile(f *os.File) error {
	lk := unix.Flock_t{Type: unix.F_UNLCK, Start: qemuPermBase, Len: qemuSharedBase - qemuPermBase + qemuPerms}
	_ = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk) // where there are none
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	return nil
}

// QEMU's image locks (block/file-posix.c, raw_check_lock_bytes): for each thing that can
// be done with an image a byte on which whoever does it has a read lock, of the open
// file description, and one on which whoever does not want others to do it has one.
// Having locked its own, each looks whether anybody has the other byte.
const (
	qemuPermBase   = 100 // locked by who does it
	qemuSharedBase = 200 // locked by who will not share it

	qemuRead   = 0 // BLK_PERM_CONSISTENT_READ, as the number of its bit
	qemuWrite  = 1 // BLK_PERM_WRITE
	qemuResize = 3 // BLK_PERM_RESIZE
	qemuPerms  = 5 // as many as there have been: 4 was BLK_PERM_GRAPH_MOD
)

// lockForQEMU takes QEMU's image locks as one of its guests' disks does. Others may read
// as well where they do not mind that it changes (qemu-img info -U).
func (l *locker) lockForQEMU(f *os.File) error {
	var fs unix.Statfs_t
	if l.readOnly && unix.Fstatfs(int(f.Fd()), &fs) == nil && fs.Type == unix.NFS_SUPER_MAGIC {
		return nil // there flock is such a lock on all of the file: readers would refuse each other
	}
	own, others := []int64{qemuPermBase + qemuRead}, []int64{qemuSharedBase + qemuRead}
	if !l.readOnly {
		own, others = append(own, qemuPermBase+qemuWrite), append(others, qemuSharedBase+qemuWrite)
	}
	for _, not := range []int64{qemuWrite, qemuResize} {
		if l.part && not == qemuWrite {
			continue
		}
		own, others = append(own, qemuSharedBase+not), append(others, qemuPermBase+not)
	}
	for _, at := range own {
		lk := unix.Flock_t{Type: unix.F_RDLCK, Start: at, Len: 1}
		switch err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk); {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES): // somebody else's write lock; none of QEMU's
			return &InUseError{Holder: fileHolder(f)}
		case err != nil:
			if l.warn != nil {
				l.warn(fmt.Sprintf("%s: the file system has no locks for QEMU to see (%v): make sure that nobody else uses the disk", f.Name(), err))
			}
			return nil
		}
	}
	return retryLock(func() (string, error) {
		for _, at := range others {
			lk := unix.Flock_t{Type: unix.F_WRLCK, Start: at, Len: 1}
			if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lk); err != nil {
				return "", err
			} else if lk.Type != unix.F_UNLCK {
				return fileHolder(f), errLocked
			}
		}
		return "", nil
	})
}

// InUseError is what opening a disk returns that another process has open.
type InUseError struct {
	Holder string // who that is, in words; empty of a device

	Text string // instead, of a device
}

func (e *InUseError) Error() string {
	if e.Text != "" {
		return e.Text
	}
	return "in use by " + e.Holder + "; stop that first"
}

// unknownHolder is a holder that is not known, or gone.
const unknownHolder = "another process"

// LockHolder names the process that holds the flock on f, as far as the kernel
// tells: /proc/locks has the process of every flock, zero when it lives in
// another container. One that has ended is not named.
func LockHolder(f *os.File) string {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return unknownHolder
	}
	// 1: FLOCK  ADVISORY  WRITE 4242 fe:00:131 0 EOF
	inode := fmt.Sprintf("%02x:%02x:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)), st.Ino)
	holder := unknownHolder
	_ = eachLine("/proc/locks", func(w []string) {
		if len(w) < 6 || w[1] != "FLOCK" || w[5] != inode || w[4] == "0" || holder != unknownHolder {
			return
		}
		if name, err := os.ReadFile("/proc/" + w[4] + "/comm"); err == nil {
			holder = fmt.Sprintf("process %s (%s)", w[4], trimmed(name))
		}
	})
	return holder
}

// fileHolder names a process that has f's file open. The kernel tells of no open file
// description whose it is.
func fileHolder(f *os.File) string {
	own, err := newSameFile(f)
	if err != nil {
		return unknownHolder
	}
	who := processesWith(os.Getpid(), own.is)
	if len(who) == 0 {
		return unknownHolder
	}
	return who[0]
}

// IsInUse says whether err is Open's for a disk that somebody else has.
func IsInUse(err error) bool { return errors.As(err, new(*InUseError)) }
