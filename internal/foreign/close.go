package foreign

import (
	"errors"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxThreads is how many descriptors are closed at once: each close that waits has a
// goroutine, and a carrier. Others wait for their turn.
const maxThreads = 32

// Limit is how many descriptors may be left over, either because nothing can close them
// or because those that are being closed do not come to an end. See Exhausted. Only tests
// change it, before anything runs.
var Limit = 1024

// reaper closes what Close is given.
var reaper struct {
	mu        sync.Mutex
	queue     []int
	busy      [maxThreads]bool // jobs that close something
	closing   int
	transfers [MaxTransfers]bool // jobs that carry something
	stuck     int                // that stay open
	holding   error              // why there is no holder, or why it does not spare one of those
}

// Close closes fd, which is not the caller's any more, and waits for nothing. An eventfd
// is closed when it returns, anything else in time, or never: see Stuck.
func Close(fd int) {
	if name, err := link(fd); err == nil && name == "anon_inode:[eventfd]" {
		_ = unix.Close(fd)
		return
	}
	reaper.mu.Lock()
	defer reaper.mu.Unlock()
	reaper.queue = append(reaper.queue, fd)
	for i := range reaper.busy {
		if !reaper.busy[i] {
			reaper.busy[i] = true
			reaper.closing++
			go reap(i)
			return
		}
	}
}

// CloseKind is Close for a descriptor that has been looked at.
func CloseKind(fd int, k Kind) {
	if k == Stuck {
		reaper.mu.Lock()
		defer reaper.mu.Unlock()
		retainLocked(fd)
		return
	}
	Close(fd)
}

// retainLocked counts fd as one that stays open until the process ends, and after that as long as
// the holder does (holder.go). To close a file of a silent FUSE server waits where not even
// SIGKILL reaches (fuse_flush sends a request that is forced, see request_wait_answer).
func retainLocked(fd int) {
	reaper.stuck++
	if err := spare(fd); err != nil {
		reaper.holding = err
	}
}

// reap closes descriptors until none is left. Job i is its own.
func reap(i int) {
	reaper.mu.Lock()
	defer reaper.mu.Unlock()
	for len(reaper.queue) > 0 {
		fd := reaper.queue[0]
		reaper.queue = reaper.queue[1:]
		reaper.mu.Unlock()
		kind, _ := Inspect(fd)
		switch kind {
		case Stuck:
		case Memory:
			_ = unix.Close(fd) // it is closed even if close fails
		default:
			closeElsewhere(i, fd)
		}
		reaper.mu.Lock()
		if kind == Stuck {
			retainLocked(fd)
		}
	}
	reaper.queue = nil
	reaper.busy[i] = false
	reaper.closing--
}

// closeElsewhere has job i close fd, in a carrier if there can be one.
func closeElsewhere(i, fd int) {
	for range 3 { // a carrier may be killed before it has begun
		if shared == nil {
			break
		}
		if gone, err := shared.jobs[i].do(doClose, int32(fd)); gone {
			return
		} else if err != nil {
			break
		}
	}
	_ = unix.Close(fd)
}

// Guard prevents the end of this process from waiting for descriptors that front-ends have
// sent and no process has received: the kernel closes those with the socket. Call it before
// the first front-end connects (see holder.go).
func Guard() error {
	reaper.mu.Lock()
	defer reaper.mu.Unlock()
	return haveHolder()
}

// Left is how many descriptors are not closed yet, closing of them those that are waiting
// for it, or being closed, now.
func Left() (all, closing int) {
	reaper.mu.Lock()
	defer reaper.mu.Unlock()
	closing = len(reaper.queue) + reaper.closing
	return closing + reaper.stuck, closing
}

// Unclosable is how many descriptors stay open because nothing can close them. An error means
// that the end of this process waits for the server of their file system; without an error
// only another process, zvhost-leftover, waits.
func Unclosable() (n int, err error) {
	reaper.mu.Lock()
	defer reaper.mu.Unlock()
	return reaper.stuck, reaper.holding
}

// Exhausted reports whether so many descriptors are left over that the next process should
// take the place of this one: it must not run out of descriptors because a front-end sends
// some that cannot be closed.
func Exhausted() bool {
	all, _ := Left()
	return all >= Limit
}

// Socket is what HangUp closes: a connection or a listener of package net.
type Socket interface {
	syscall.Conn
	Close() error
}

// InlineOutOfBand has recvmsg(2) on s pass on out-of-band data like any other. Without it, an
// out-of-band byte that comes next is dropped, and the descriptors that came along with it
// are closed by whoever reads, for which there is no limit (manage_oob in net/unix/af_unix.c).
func InlineOutOfBand(s Socket) error {
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) })
	return errors.Join(cerr, err)
}

// HangUp closes a socket whose other end another process has, and does not wait for
// descriptors in its queue: with the last descriptor of a UNIX socket the kernel closes them
// (unix_release_sock, unix_destruct_scm). With shut the other end sees the end of the
// connection at once, even if other processes have a descriptor of this end; without it,
// those can continue to use it.
func HangUp(s Socket, shut bool) error {
	last := -1 // not Close's: a goroutine that reads may have to finish that one (internal/poll.FD)
	if raw, err := s.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			if n, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
				last = n
			}
		})
	}
	err := s.Close()
	if last >= 0 {
		if shut {
			_ = unix.Shutdown(last, unix.SHUT_RDWR)
		}
		Close(last)
	}
	return err
}
