package bench

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// CPUTime is the processor time that all threads of a process have used, those
// that have ended too. Unlike /proc/PID/stat, which counts in hundredths of a
// second, it is exact (clock_getcpuclockid(3); its layout is in the kernel's
// include/linux/posix-timers.h: the inverted number, and CPUCLOCK_SCHED).
func CPUTime(pid int) (time.Duration, error) {
	const schedClock = 2
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedClock), &ts); err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}
