package foreign

import (
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
		keepLocked(fd)
		return
	}
	Close(fd)
}

// keepLocked notes that fd stays open until the process ends, and after that as long as
// the holder does (holder.go). To close a file of a silent FUSE server waits where not even
// SIGKILL reaches (fuse_flush sends a request that is forced, see request_wait_answer).
func keepLocked(fd int) {
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
			_ = unix.Close(fd) // it is gone, whatever close says
		default:
			closeElsewhere(i, fd)
		}
		reaper.mu.Lock()
		if kind == Stuck {
			keepLocked(fd)
		}
	}
	reaper.queue = nil
	reaper.busy[i] = false
	reaper.closing--
}

// closeElsewhere has job i close fd, in a carrier if there can be one.
func closeElsewhere(i, fd int) {
	for range 3 { // somebody may kill a carrier before it has begun
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

// Guard sees to it that the end of this process does not wait for what front-ends have sent
// and nobody has received: the kernel closes that with the socket. Call it before there are
// any (see holder.go).
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

// Kept is how many descriptors stay open because nothing can close them. An error means
// that the end of this process waits for whoever serves them; without one it is another
// process, zvhost-leftover, that waits.
func Kept() (n int, err error) {
	reaper.mu.Lock()
	defer reaper.mu.Unlock()
	return reaper.stuck, reaper.holding
}

// Exhausted says that so many descriptors are left over that the process had better end,
// and another one take its place: it must not run out of them because of somebody who
// sends what cannot be closed.
func Exhausted() bool {
	all, _ := Left()
	return all >= Limit
}

// Socket is what HangUp closes: a connection or a listener of package net.
type Socket interface {
	syscall.Conn
	Close() error
}

// HangUp closes a socket that somebody else has the other end of, and does not wait for
// what he has sent and nobody has read: with the last descriptor of a UNIX socket the
// kernel closes the descriptors in its queue (unix_release_sock, unix_destruct_scm). With
// shut the other end notices at once, whoever else has a descriptor of this one; without
// it, others of this end go on.
func HangUp(s Socket, shut bool) error {
	last := -1 // not Close's: whoever happens to read may have to finish that (internal/poll.FD)
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
