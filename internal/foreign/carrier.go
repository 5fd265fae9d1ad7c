package foreign

import (
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What may hang where not even SIGKILL reaches is done by a carrier, a process that shares
// this one's descriptors (holder.go). So do read, write, open and close of a pipe while
// another process holds its mutex: __pipe_lock cannot be interrupted, and a process that writes into the
// pipe from memory that a silent FUSE server or userfaultfd has to bring holds it for as long
// as he likes. A read of a UNIX socket takes its iolock in the same way. The close of a
// socket closes what is in its queue, pipes too (unix_destruct_scm). The kernel's release of
// the last descriptor is done by the process that closes it, so the carrier closes it, in
// the table that is this process's as well.

const (
	// maxJobs is how many things are carried at once, and carriers there are at most: one
	// that hangs has its job until its call returns.
	maxJobs = maxThreads + MaxTransfers
	// MaxTransfers bounds the states that are being carried. Closes have carriers of their
	// own.
	MaxTransfers = 32
	// MaxState bounds a state, in bytes.
	MaxState = 4096
)

// What a carrier is to do.
const (
	doClose int32 = iota
	doSave        // write data[:n], and close
	doLoad        // read until the end, up to MaxState+1 bytes into data, and close
)

// The states of a job. The carrier, or the holder when that has none or it has died, makes
// jobOver of jobAsked; this process does the rest.
const (
	jobIdle int32 = iota
	jobAsked
	jobOver
)

// A job is one carrier's.
type job struct {
	state int32 // a futex
	pid   int32 // the carrier, as long as it runs; the holder's to set
	abort int32 // not 0: the holder is to kill the carrier
	what  int32
	fd    int32
	gone  int32 // not 0: the close of fd has begun, or is over
	errno int32
	n     int32 // the bytes that there are, or were written or read
	data  [MaxState + 1]byte
	rest  [MaxState]byte // what more there is to read
}

// jobAt is for the holder, which has no bounds checks to fail.
//
//go:norace
//go:nocheckptr
//go:nosplit
//go:noinline
func jobAt(i int) *job {
	return (*job)(unsafe.Add(unsafe.Pointer(shared), unsafe.Offsetof(sharedState{}.jobs)+uintptr(i)*unsafe.Sizeof(job{})))
}

const (
	futexWait = 0
	futexWake = 1
)

// endJob ends a job, whether it succeeded or not.
//
//go:norace
//go:nocheckptr
//go:nosplit
//go:noinline
func endJob(j *job) {
	j.state = jobOver
	syscall.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&j.state)), futexWake, 1, 0, 0, 0)
}

// carry is what a carrier does, until the holder ends or kills it. See startHolder for what
// it must not do. It does not return.
//
//go:norace
//go:nocheckptr
//go:nosplit
//go:noinline
func carry(j *job, holder uintptr) {
	name := [16]byte{'z', 'v', 'h', 'o', 's', 't', '-', 'c', 'a', 'r', 'r', 'i', 'e', 'r'}
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name)), 0, 0, 0, 0)
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
	if now, _, _ := syscall.RawSyscall6(unix.SYS_GETPPID, 0, 0, 0, 0, 0, 0); now != holder {
		exitChild()
	}
	for {
		for {
			state := j.state
			if state == jobAsked {
				break
			}
			syscall.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&j.state)), futexWait, uintptr(state), 0, 0, 0)
		}
		switch j.what {
		case doSave:
			carryOut(j)
		case doLoad:
			carryIn(j)
		}
		j.gone = 1
		syscall.RawSyscall6(unix.SYS_CLOSE, uintptr(j.fd), 0, 0, 0, 0, 0)
		endJob(j)
	}
}

// carryOut writes what there is, and waits for no room: what is empty has it.
//
//go:norace
//go:nocheckptr
//go:nosplit
//go:noinline
func carryOut(j *job) {
	iov := [2]uint64{uint64(uintptr(unsafe.Pointer(&j.data))), uint64(j.n)}
	n, _, errno := syscall.RawSyscall6(unix.SYS_PWRITEV2, uintptr(j.fd), uintptr(unsafe.Pointer(&iov)), 1, ^uintptr(0), ^uintptr(0), unix.RWF_NOWAIT)
	if errno == unix.EOPNOTSUPP { // pipes before Linux 6.4; there it may wait
		n, _, errno = syscall.RawSyscall6(unix.SYS_WRITE, uintptr(j.fd), uintptr(unsafe.Pointer(&j.data)), uintptr(j.n), 0, 0, 0)
	}
	j.n, j.errno = 0, int32(errno)
	if errno == 0 {
		j.n = int32(n)
	}
}

// carryIn reads until the end, whatever the length: the other end must not get stuck on
// writing more than any state has.
//
//go:norace
//go:nocheckptr
//go:nosplit
//go:noinline
func carryIn(j *job) {
	j.n, j.errno = 0, 0
	for {
		at, size := uintptr(unsafe.Pointer(&j.data))+uintptr(j.n), uintptr(len(j.data))-uintptr(j.n)
		if size == 0 {
			at, size = uintptr(unsafe.Pointer(&j.rest)), uintptr(len(j.rest))
		}
		n, _, errno := syscall.RawSyscall6(unix.SYS_READ, uintptr(j.fd), at, size, 0, 0, 0)
		if errno == unix.EAGAIN { // O_NONBLOCK is the front-end's business
			p := [1]unix.PollFd{{Fd: j.fd, Events: unix.POLLIN}}
			syscall.RawSyscall6(unix.SYS_POLL, uintptr(unsafe.Pointer(&p)), 1, ^uintptr(0), 0, 0, 0)
			continue
		}
		if errno != 0 {
			j.errno = int32(errno)
			return
		}
		if n == 0 {
			return
		}
		if int(j.n) < len(j.data) {
			j.n += int32(n)
		}
	}
}

// do has a carrier do something with fd, and returns when it is over: gone says whether fd
// was closed. An error means that nothing was done.
func (j *job) do(what, fd int32) (gone bool, err error) {
	j.what, j.fd, j.gone, j.errno = what, fd, 0, 0
	reaper.mu.Lock()
	err = haveHolder()
	reaper.mu.Unlock()
	if err != nil {
		return false, err
	}
	atomic.StoreInt32(&j.state, jobAsked)
	futex(&j.state, futexWake, 1, nil)
	j.wait()
	return j.gone != 0, nil
}

// wait returns when the job is over. It sees to it that there is a carrier.
func (j *job) wait() {
	second := unix.Timespec{Sec: 1}
	for {
		if atomic.LoadInt32(&j.pid) == 0 || atomic.LoadInt32(&j.abort) != 0 {
			wake()
		}
		futex(&j.state, futexWait, uintptr(jobAsked), &second)
		if atomic.LoadInt32(&j.state) == jobOver {
			atomic.StoreInt32(&j.state, jobIdle)
			return
		}
		reaper.mu.Lock()
		was := holder.Load()
		if haveHolder() != nil || holder.Load() != was {
			j.errno = int32(unix.ECHILD)
			atomic.CompareAndSwapInt32(&j.state, jobAsked, jobOver)
		}
		reaper.mu.Unlock()
	}
}

func futex(word *int32, op, value uintptr, timeout *unix.Timespec) {
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), op, value, uintptr(unsafe.Pointer(timeout)), 0, 0)
}

// wake has the holder look at the jobs.
func wake() {
	if pid := int(holder.Load()); pid > 0 {
		_ = unix.Kill(pid, wakeHolder)
	}
}
