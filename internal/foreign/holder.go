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
// process stays, dead, with the lock of its image and its listening socket.
//
// The descriptors of a process that ends are not closed as long as another process shares
// the table. So the first descriptor that must not be closed brings about such a process,
// the holder. It sleeps until this one has ended, in whatever way; then it closes all but
// those, and ends. It is the holder alone that hangs there, with nothing that anybody
// waits for.

const (
	holderName = "zvhost-leftover" // 15 bytes, the most that the kernel keeps
	// maxHeld bounds the numbers of descriptors that are spared (the usual fs.nr_open).
	maxHeld = 1 << 20
	// oneByOne is how many are closed one by one. It is a matter of milliseconds.
	oneByOne = 1 << 14
)

// heldWords has a bit for each descriptor that the holder does not close. The holder has
// its own memory, but this is shared with it.
type heldWords [maxHeld / 64]atomic.Uint64

// held is mapped from the start, so that this cannot fail when it is needed; a page of it
// that is not used takes no memory.
var held = mapHeld()

func mapHeld() *heldWords {
	b, err := unix.Mmap(-1, 0, int(unsafe.Sizeof(heldWords{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil
	}
	return (*heldWords)(unsafe.Pointer(unsafe.SliceData(b)))
}

// hold has the holder spare fd, and starts it if it does not run. An error means that the
// end of this process hangs if the close of fd does.
func hold(fd int, running bool) error {
	if held == nil || fd < 0 || fd >= maxHeld {
		return unix.ENOMEM
	}
	held[fd/64].Or(1 << (fd % 64))
	if running {
		return nil
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if errno := startHolder(uintptr(unix.Getpid())); errno != 0 {
		return errno
	}
	return nil
}

// startHolder makes the holder. In it there is one thread and no Go scheduler: until it
// exits it makes system calls and nothing else. It must not grow its stack, allocate, be
// preempted or write a pointer (see syscall.forkAndExecInChild), so this function calls
// none that is not of the same sort.
//
//go:norace
//go:nosplit
//go:noinline
func startHolder(parent uintptr) syscall.Errno {
	var (
		all  = ^uint64(0)
		old  uint64
		term = uint64(1) << (unix.SIGTERM - 1)
		name = [16]byte{'z', 'v', 'h', 'o', 's', 't', '-', 'l', 'e', 'f', 't', 'o', 'v', 'e', 'r'}
	)
	const setSize = 8
	// No signal handler of Go's may run in the holder; nor here before the mask is back.
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&old)), setSize, 0, 0)
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, unix.CLONE_FILES, 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&old)), 0, setSize, 0, 0)
		return errno
	}

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
		syscall.RawSyscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&term)), 0, 0, setSize, 0, 0)
	}
	// One by one as far as a daemon uses them, in their order: the image comes before the
	// front-ends' sockets, whose own close may wait for what was sent and not read.
	next := uintptr(0) // what is below is closed, or spared
	for fd := uintptr(0); fd < maxHeld; fd++ {
		spared := *(*uint64)(unsafe.Add(unsafe.Pointer(held), fd/64*8))>>(fd%64)&1 != 0
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
	for {
		syscall.RawSyscall6(unix.SYS_EXIT_GROUP, 0, 0, 0, 0, 0, 0)
	}
}
