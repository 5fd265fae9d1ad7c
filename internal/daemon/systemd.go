package daemon

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vhostuser/handover"
)

// socketFDName is what the socket unit calls its descriptor
// (FileDescriptorName=). Others may be passed on beside it: the service manager's fd store
// uses the same channel (sd_listen_fds(3)).
const socketFDName = "vhost-user"

// Names of descriptors in the fd store: what all of zvhost's and those of a session begin
// with, and two single ones.
const (
	namePrefix    = "zvhost."
	sessionPrefix = namePrefix + "session."
	listenerName  = namePrefix + "listener"
	detachedName  = namePrefix + "away" // the disk is detached: see noteDetached
)

// passedOn is what the service manager has passed on to this process.
type passedOn struct {
	socket *os.File        // of the socket unit; nil: none
	stored handover.Stored // what the previous process has put into the fd store
	store  *fdStore        // nil: there is none

	guestWaits bool // for the process that resumes its session
	serving    bool // the daemon serves, or has served
}

// activated takes what the service manager has passed on. A single descriptor that
// is not from the fd store is the socket, whatever its name.
func activated(log logrus.FieldLogger) (*passedOn, error) {
	h := &passedOn{stored: handover.Stored{}, store: openStore(log)}
	var others []*os.File
	for _, f := range activation.Files(true) {
		if !strings.HasPrefix(f.Name(), namePrefix) {
			others = append(others, f)
			continue
		}
		fd, err := takeFD(f)
		if err != nil {
			h.guestWaits = true // it may be a guest's
			return h, err
		}
		if twice := h.stored[f.Name()]; twice != nil {
			_ = twice.Close()
		}
		h.stored[f.Name()] = fd
	}
	for name := range h.stored { // not Of, which takes them
		h.guestWaits = h.guestWaits || name == detachedName || strings.HasPrefix(name, sessionPrefix)
	}
	if len(others) == 1 {
		h.socket = others[0]
		return h, nil
	}
	var names []string
	for _, f := range others {
		names = append(names, f.Name())
		if f.Name() == socketFDName && h.socket == nil {
			h.socket = f
			continue
		}
		_ = f.Close() // zvhost has no use for it
	}
	if len(others) > 0 && h.socket == nil {
		return h, lasting(fmt.Errorf("systemd handed over %d descriptors (%s), none of them called %q: set FileDescriptorName=%s in the socket unit",
			len(others), strings.Join(names, ", "), socketFDName, socketFDName))
	}
	return h, nil
}

// takeFD takes the descriptor out of f, which the garbage collector would close.
func takeFD(f *os.File) (*foreign.FD, error) {
	n, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("descriptor %s of the fd store: %w", f.Name(), err)
	}
	_ = f.Close()
	return foreign.SentFD(n), nil // by a front-end, some of them
}

// wasDetached reports whether the previous process has released the disk, and not acquired
// it again.
func (h *passedOn) wasDetached() bool {
	f := h.stored[detachedName]
	if f == nil {
		return false
	}
	delete(h.stored, detachedName) // it stays in the store
	_ = f.Close()
	return true
}

// leave leaves all to the next process: this one cannot begin.
func (h *passedOn) leave() {
	store := h.store
	h.store = nil
	h.close()
	store.close()
}

// close closes, and drops from the store, what was not taken.
func (h *passedOn) close() {
	if h.socket != nil {
		_ = h.socket.Close()
	}
	for name, f := range h.stored {
		h.store.drop(name)
		_ = f.Close()
	}
	h.store.close()
}

// An fdStore is the service manager's: descriptors in it outlive this process
// ($FDSTORE and FDSTORE=1, sd_notify(3), sd_pid_notify_with_fds(3)). systemd has
// one where FileDescriptorStoreMax= is set, and 'zvhost keeper' always.
type fdStore struct {
	fd  *foreign.FD
	log logrus.FieldLogger
}

func openStore(log logrus.FieldLogger) *fdStore {
	path := os.Getenv("NOTIFY_SOCKET")
	if n, err := strconv.Atoi(os.Getenv("FDSTORE")); err != nil || n <= 0 || path == "" {
		return nil
	}
	n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		s := &fdStore{fd: foreign.NewFD(n), log: log}
		if err = unix.Connect(n, &unix.SockaddrUnix{Name: path}); err == nil {
			return s
		}
		s.close()
	}
	log.Warnf("the fd store of the service manager: %v; a restart will not be invisible to the guest", err)
	return nil
}

// send sends a message to the service manager, waiting for room.
func (s *fdStore) send(text string, fds ...int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	for {
		if err := unix.Sendmsg(s.fd.Int(), []byte(text), oob, nil, unix.MSG_NOSIGNAL); err != unix.EINTR {
			return err
		}
	}
}

// put stores a descriptor under a name. The caller still owns it: the store has a duplicate.
// Without FDPOLL=0 the manager would drop a connection that hangs up, which is for zvhost to
// notice.
func (s *fdStore) put(name string, fd int) error {
	return s.send("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, fd)
}

// drop removes all that is stored under a name.
func (s *fdStore) drop(name string) {
	if s == nil {
		return
	}
	if err := s.send("FDSTOREREMOVE=1\nFDNAME=" + name); err != nil {
		s.log.Warnf("dropping %s from the fd store: %v", name, err)
	}
}

// noteDetached stores for the next process that the disk is detached, or no more. An
// eventfd in the store, which is never signalled, means that it is.
func (s *fdStore) noteDetached(detached bool) {
	if s == nil {
		return
	}
	if !detached {
		s.drop(detachedName)
		return
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err == nil {
		err = errors.Join(s.put(detachedName, fd), unix.Close(fd))
	}
	if err != nil {
		s.log.Warnf("noting that the disk is released: %v; if this process dies, the next one acquires it again", err)
	}
}

func (s *fdStore) close() {
	if s != nil {
		_ = s.fd.Close()
	}
}

// sessions is where sessions are persisted, nil for nowhere.
func (s *fdStore) sessions() *handover.Store {
	if s == nil {
		return nil
	}
	return &handover.Store{Put: s.put, Drop: s.drop, Prefix: sessionPrefix}
}

func status(format string, args ...any) string {
	return "STATUS=" + fmt.Sprintf(format, args...)
}
