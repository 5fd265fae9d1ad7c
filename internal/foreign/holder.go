package foreign

import (
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// At the end of a process the kernel closes its descriptors one after the other, and
// releases the files of all of them only afterwards (exit_files, exit_task_work). With a
// file of a silent FUSE server among them it gets to neither: fuse_flush waits, and the
// process stays, dead, with the lock of its image and its listening socket. A thread that
// close(2) does not return to has the same effect: a process has not ended before all of
// its threads have.
//
// The descriptors of a process that ends are not closed as long as another process shares
// the table. So there is such a process, the holder: from Guard on, or from the first
// descriptor that had better not be closed here. It sleeps until this one has ended, in
// whatever way; then it closes all but those that nothing can close, and ends. It is the
// holder alone that hangs there, with nothing that anybody waits for.
//
// The holder has children, the carriers, which share the table as well: they make the
// system calls on descriptors that may not return (carrier.go). They are the holder's, and
// not this process's, because the memory of a process as it was at the time of a clone
// stays for as long as the child does: the holder's does not change.

const (
	holderName = "zvhost-leftover" // 15 bytes, the most that the kernel keeps
	// maxHeld bounds the numbers of descriptors that are spared (the usual fs.nr_open).
	maxHeld = 1 << 20
	// oneByOne is how many are closed one by one. It is a matter of milliseconds.
	oneByOne = 1 << 14
	// closers is how many processes the holder has close descriptors at the end, one after
	// the other, each for as long as closePatience when it hangs. A descriptor is out of
	// the table before its close can wait (file_close_fd), so the next one continues behind it.
	closers       = 32
	closePatience = 50 // in pauses of closePause
	closePause    = 2e6
)

// A sharedState is what this process shares with the holder and the carriers. They have
// copies of its other memory, from when the holder was made.
type sharedState struct {
	held [maxHeld]byte // not 0: the holder does not close the descriptor of that number
	jobs [maxJobs]job
}

// shared is mapped from the start, so that this cannot fail when it is needed; a page of it
// that is not used takes no memory.
var shared = mapShared()

func mapShared() *sharedState {
	b, err := unix.Mmap(-1, 0, int(unsafe.Sizeof(sharedState{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil
	}
	return (*sharedState)(unsafe.Pointer(unsafe.SliceData(b)))
}

// holder is the process, 0 for none.
var holder atomic.Int64

// spare has the holder not close fd. An error means that the end of this process hangs if
// the close of fd does. The caller has reaper.mu.
func spare(fd int) error {
	if shared == nil || fd < 0 || fd >= maxHeld {
		return unix.ENOMEM
	}
	shared.held[fd] = 1
	return haveHolder()
}

// haveHolder starts the holder where there is none. The caller has reaper.mu.
func haveHolder() error {
	if shared == nil {
		return unix.ENOMEM
	}
	if pid := int(holder.Load()); pid != 0 {
		if ended, _ := unix.Wait4(pid, nil, unix.WNOHANG|unix.WALL, nil); ended != pid {
			return nil
		}
		holder.Store(0) // it was killed, and its carriers ended with it
		for i := range shared.jobs {
			atomic.StoreInt32(&shared.jobs[i].pid, 0)
		}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, errno := startHolder(uintptr(unix.Getpid()))
	if errno != 0 {
		return errno
	}
	holder.Store(int64(pid))
	return nil
}

// startHolder makes the holder. In it, as in the carriers, there is one thread and no Go
// scheduler: until it exits it makes system calls and nothing else. It must not grow its
// stack, allocate, be preempted or write a pointer (see syscall.forkAndExecInChild), so this
// function calls none that is not of the same sort. Memory is shared with it by loads and
// stores as x86-64 has them.
//
//go:norace
//go:nocheckptr
//go:nosplit
//go:noinline
func startHolder(parent uintptr) (uintptr, syscall.Errno) {
	var (
		all = ^uint64(0)
		old uint64
	)
	// No signal handler of Go's may run in the holder; nor here before the mask is back.
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&old)), sigsetSize, 0, 0)
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, unix.CLONE_FILES, 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&old)), 0, sigsetSize, 0, 0)
		return pid, errno
	}
	hold(parent)
	return 0, 0
}

const (
	sigsetSize = 8
	wakeHolder = unix.SIGUSR1 // there is something new among the jobs
)

// hold is what the holder does. It does not return.
//
//go:norace
//go:nocheckptr
//go:nosplit
//go:noinline
func hold(parent uintptr) {
	var (
		name = [16]byte{'z', 'v', 'h', 'o', 's', 't', '-', 'l', 'e', 'f', 't', 'o', 'v', 'e', 'r'}
		wake = uint64(1)<<(unix.SIGTERM-1) | uint64(1)<<(wakeHolder-1) | uint64(1)<<(unix.SIGCHLD-1)
	)
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name)), 0, 0, 0, 0)
	syscall.RawSyscall6(unix.SYS_SETSID, 0, 0, 0, 0, 0, 0) // a terminal's signals, and its end, are not for it
	// The signal comes with the end of the thread that is the parent, and again with that
	// of the thread that takes its place. Another process is the parent once none of them
	// runs any more.
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0, 0)
	for {
		if now, _, _ := syscall.RawSyscall6(unix.SYS_GETPPID, 0, 0, 0, 0, 0, 0); now != parent {
			break
		}
		reapCarriers()
		serveJobs()
		syscall.RawSyscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&wake)), 0, 0, sigsetSize, 0, 0)
	}
	for i := range maxJobs {
		if j := jobAt(i); j.pid != 0 {
			syscall.RawSyscall6(unix.SYS_KILL, uintptr(j.pid), uintptr(unix.SIGKILL), 0, 0, 0, 0)
		}
	}
	for range closers {
		if closeTable() {
			break
		}
	}
	exitChild()
}

// reapCarriers ends the jobs of the carriers that have ended.
//
//go:norace
//go:nocheckptr
//go:nosplit
//go:noinline
func reapCarriers() {
	for {
		pid, _, errno := syscall.RawSyscall6(unix.SYS_WAIT4, ^uintptr(0), 0, unix.WNOHANG|unix.WALL, 0, 0, 0)
		if errno != 0 || pid == 0 {
			return
		}
		for i := range maxJobs {
			j := jobAt(i)
			if uintptr(j.pid) != pid {
				continue
			}
			j.pid = 0
			if j.state == jobAsked {
				j.errno = int32(unix.ECHILD)
				endJob(j)
			}
		}
	}
}

// serveJobs starts the carriers that are lacking, and ends those whose job is given up.
//
//go:norace
//go:nocheckptr
//go:nosplit
//go:noinline
func serveJobs() {
	holder, _, _ := syscall.RawSyscall6(unix.SYS_GETPID, 0, 0, 0, 0, 0, 0)
	for i := range maxJobs {
		j := jobAt(i)
		if j.pid == 0 && j.state == jobAsked && j.abort == 0 {
			pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, unix.CLONE_FILES|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
			switch {
			case errno != 0:
				j.errno = int32(errno)
				endJob(j)
			case pid == 0:
				carry(j, holder)
			default:
				j.pid = int32(pid)
			}
		}
		if j.abort == 0 || j.state != jobAsked {
			continue
		}
		if j.pid == 0 {
			j.errno = int32(unix.ECANCELED)
			endJob(j)
			continue
		}
		syscall.RawSyscall6(unix.SYS_KILL, uintptr(j.pid), uintptr(unix.SIGKILL), 0, 0, 0, 0)
	}
}

// closeTable closes the descriptors that are left, but for those that are spared, in another
// process, and says whether that came to its end.
//
//go:norace
//go:nocheckptr
//go:nosplit
//go:noinline
func closeTable() bool {
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, unix.CLONE_FILES|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid == 0 {
		closeAll()
		if pid == 0 {
			exitChild()
		}
		return true
	}
	pause := [2]int64{0, closePause}
	for range closePatience {
		ended, _, errno := syscall.RawSyscall6(unix.SYS_WAIT4, pid, 0, unix.WNOHANG|unix.WALL, 0, 0, 0)
		if errno != 0 || ended == pid {
			return true
		}
		syscall.RawSyscall6(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0, 0, 0, 0)
	}
	return false
}

// closeAll closes one by one as far as a daemon uses them, in their order: the image comes
// before the front-ends' sockets, whose own close may wait for what was sent and not read.
//
//go:norace
//go:nocheckptr
//go:nosplit
//go:noinline
func closeAll() {
	next := uintptr(0) // what is below is closed, or spared
	for fd := uintptr(0); fd < maxHeld; fd++ {
		spared := *(*byte)(unsafe.Add(unsafe.Pointer(shared), fd)) != 0
		if fd >= oneByOne && !spared {
			continue
		}
		if fd > next {
			syscall.RawSyscall6(unix.SYS_CLOSE_RANGE, next, fd-1, 0, 0, 0, 0)
		}
		if !spared {
			syscall.RawSyscall6(unix.SYS_CLOSE, fd, 0, 0, 0, 0, 0)
		}
		next = fd + 1
	}
	syscall.RawSyscall6(unix.SYS_CLOSE_RANGE, next, uintptr(^uint32(0)), 0, 0, 0, 0)
}

//go:norace
//go:nocheckptr
//go:nosplit
//go:noinline
func exitChild() {
	for {
		syscall.RawSyscall6(unix.SYS_EXIT_GROUP, 0, 0, 0, 0, 0, 0)
	}
}
