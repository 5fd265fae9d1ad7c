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
// (FileDescriptorName=). Others may be handed down beside it: the service
// manager's fd store uses the same channel (sd_listen_fds(3)).
const socketFDName = "vhost-user"

// What the names of descriptors in the fd store begin with: all of ours, and
// those of a session.
const (
	keptPrefix    = "zvhost."
	sessionPrefix = keptPrefix + "session."
	listenerName  = keptPrefix + "listener"
	awayName      = keptPrefix + "away" // the disk has been let go of: see noteAway
)

// handed is what the service manager handed down.
type handed struct {
	socket *os.File        // of the socket unit; nil: none
	kept   handover.Stored // what the process before has put into the fd store
	store  *fdStore        // nil: there is none

	held  bool // a guest waits for what was handed down
	begun bool // the daemon serves, or has served
}

// activated takes what the service manager handed down. A single descriptor that
// is not from the fd store is the socket, whatever its name.
func activated(log logrus.FieldLogger) (*handed, error) {
	h := &handed{kept: handover.Stored{}, store: openStore(log)}
	var others []*os.File
	for _, f := range activation.Files(true) {
		if !strings.HasPrefix(f.Name(), keptPrefix) {
			others = append(others, f)
			continue
		}
		fd, err := takeFD(f)
		if err != nil {
			h.held = true // it may be a guest's
			return h, err
		}
		if twice := h.kept[f.Name()]; twice != nil {
			_ = twice.Close()
		}
		h.kept[f.Name()] = fd
	}
	for name := range h.kept { // not Of, which takes them
		h.held = h.held || name == awayName || strings.HasPrefix(name, sessionPrefix)
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
		_ = f.Close() // nobody's any more
	}
	if len(others) > 0 && h.socket == nil {
		return h, lasting(fmt.Errorf("systemd handed over %d descriptors (%s), none of them called %q: set FileDescriptorName=%s in the socket unit",
			len(others), strings.Join(names, ", "), socketFDName, socketFDName))
	}
	return h, nil
}

// takeFD takes the descriptor out of f, which Go would close when nobody holds it
// any more.
func takeFD(f *os.File) (*foreign.FD, error) {
	n, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("descriptor %s of the fd store: %w", f.Name(), err)
	}
	_ = f.Close()
	return foreign.SentFD(n), nil // by a front-end, some of them
}

// letGo says whether the process before has let go of the disk, and not taken it
// again.
func (h *handed) letGo() bool {
	f := h.kept[awayName]
	if f == nil {
		return false
	}
	delete(h.kept, awayName) // it stays in the store
	_ = f.Close()
	return true
}

// leave leaves all to another process: this one cannot begin.
func (h *handed) leave() {
	store := h.store
	h.store = nil
	h.close()
	store.close()
}

// close lets go of what nobody has taken.
func (h *handed) close() {
	if h.socket != nil {
		_ = h.socket.Close()
	}
	for name, f := range h.kept {
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

// put keeps a descriptor under a name. It is lent: the store has a duplicate.
// Without FDPOLL=0 the manager would drop a connection that hangs up, which is
// ours to notice.
func (s *fdStore) put(name string, fd int) error {
	return s.send("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, fd)
}

// drop forgets all that is kept under a name.
func (s *fdStore) drop(name string) {
	if s == nil {
		return
	}
	if err := s.send("FDSTOREREMOVE=1\nFDNAME=" + name); err != nil {
		s.log.Warnf("dropping %s from the fd store: %v", name, err)
	}
}

// noteAway notes that the disk is away, or here again. An eventfd that means
// nothing stands for that in the store.
func (s *fdStore) noteAway(away bool) {
	if s == nil {
		return
	}
	if !away {
		s.drop(awayName)
		return
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err == nil {
		err = errors.Join(s.put(awayName, fd), unix.Close(fd))
	}
	if err != nil {
		s.log.Warnf("noting that the disk is let go of: %v; should this process die, the next one takes it again", err)
	}
}

func (s *fdStore) close() {
	if s != nil {
		_ = s.fd.Close()
	}
}

// sessions is where sessions are saved, nil for nowhere.
func (s *fdStore) sessions() *handover.Store {
	if s == nil {
		return nil
	}
	return &handover.Store{Put: s.put, Drop: s.drop, Prefix: sessionPrefix}
}

func status(format string, args ...any) string {
	return "STATUS=" + fmt.Sprintf(format, args...)
}
