package bench

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// CPUTime is the processor time that all threads of a process have used, also those that
// have ended. Unlike /proc/PID/stat, which counts in hundredths of a second, it is exact
// (clock_getcpuclockid(3); its layout is in the kernel's include/linux/posix-timers.h: the
// inverted number, and CPUCLOCK_SCHED).
func CPUTime(pid int) (time.Duration, error) {
	const schedClock = 2
	var ts unix.Timespec
	err := unix.ClockGettime(int32(^pid<<3|schedClock), &ts)
	if err == unix.EINVAL { // the clock's error for a process that does not exist
		err = unix.ESRCH
	}
	if err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// A watched process, 0 for none.
type watched struct{ pidfd int }

// watch watches process pid, or none if that is 0.
func watch(pid int) (watched, error) {
	if pid == 0 {
		return watched{-1}, nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return watched{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return watched{fd}, nil
}

// ended reports whether it has ended; its number may be reused by now.
func (w watched) ended() bool {
	if w.pidfd < 0 {
		return false
	}
	p := [1]unix.PollFd{{Fd: int32(w.pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(p[:], 0)
	return err == nil && n > 0
}

func (w watched) close() {
	if w.pidfd >= 0 {
		_ = unix.Close(w.pidfd)
	}
}
