package backend

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockFile takes the lock that keeps two daemons from writing one disk: shared
// for a reader, exclusive for a writer. The kernel lets it go with the file.
func lockFile(f *os.File, shared bool) error {
	how := unix.LOCK_EX
	if shared {
		how = unix.LOCK_SH
	}
	const step = 5 * time.Millisecond
	for waited := time.Duration(0); ; waited += step {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
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
		case waited > 3*time.Second || LockHolder(f) != unknownHolder:
			return &InUseError{Holder: LockHolder(f)}
		}
		time.Sleep(step)
	}
}

// unlockFile lets the lock go. Closing the file does so only when nothing else
// has it open, which an io_uring may still have.
func unlockFile(f *os.File) error {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	return nil
}

// InUseError is what opening a disk returns that another process has open.
type InUseError struct {
	Holder string // who that is, in words; empty of a drive

	said string // instead, of a drive
}

func (e *InUseError) Error() string {
	if e.said != "" {
		return e.said
	}
	return "in use by " + e.Holder + "; stop that first"
}

// unknownHolder is a holder that is not known, or gone.
const unknownHolder = "another process"

// LockHolder names the process that holds the lock on f, as far as the kernel
// tells: /proc/locks has the process of every flock, zero when it lives in
// another container. One that has ended is not named.
func LockHolder(f *os.File) string {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return unknownHolder
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return unknownHolder
	}
	defer locks.Close()
	// 1: FLOCK  ADVISORY  WRITE 4242 fe:00:131 0 EOF
	inode := fmt.Sprintf("%02x:%02x:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)), st.Ino)
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 6 || f[1] != "FLOCK" || f[5] != inode || f[4] == "0" {
			continue
		}
		name, err := os.ReadFile("/proc/" + f[4] + "/comm")
		if err != nil {
			continue
		}
		return fmt.Sprintf("process %s (%s)", f[4], strings.TrimSpace(string(name)))
	}
	return unknownHolder
}
