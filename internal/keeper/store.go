package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

// capacity is how many descriptors are held for a child: those of a session with
// 509 memory regions and 256 queues, and some more.
const capacity = 2048

// A store holds descriptors for the child, by name, and reads its messages on the
// notification socket.
type store struct {
	conn *net.UnixConn
	addr *os.File // the socket's place in the file system: see listen
	log  func(format string, args ...any)

	mu     sync.Mutex         // guards what follows
	child  int                // the process whose messages are accepted
	fixed  []*os.File         // inherited by the keeper itself
	stored []storedFD         // in order of arrival
	ready  bool               // the child has sent READY=1
	notify func(state string) // passes a state on to the manager above
	synced chan struct{}      // receives when the keeper's own message has been read
	ended  chan struct{}
}

// A storedFD is a descriptor of the child. It is a plain number: with an os.File of an
// eventfd the runtime would wake up for each kick and call of the guest.
type storedFD struct {
	fd   int
	name string
}

// syncMessage is a message of the keeper to itself: once it is read, all messages before it
// have been read.
const syncMessage = "KEEPER_SYNC=1"

func newStore(log func(string, ...any), notify func(string)) (*store, error) {
	c, addr, err := listen()
	if err != nil {
		return nil, fmt.Errorf("the notification socket: %w", err)
	}
	raw, err := c.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
		err = errors.Join(err, cerr)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the notification socket: %w", err), c.Close(), addr.Close())
	}
	s := &store{conn: c, addr: addr, log: log, notify: notify, synced: make(chan struct{}, 1), ended: make(chan struct{})}
	go s.read()
	return s, nil
}

// listen makes the notification socket. It has no name: the file is opened (O_PATH) and
// removed at once, and a process that has inherited the descriptor connects to
// /proc/self/fd/N. An abstract address would be open to all users of the machine.
func listen() (c *net.UnixConn, addr *os.File, err error) {
	var dir string
	for _, parent := range []string{os.Getenv("RUNTIME_DIRECTORY"), os.TempDir(), "/dev/shm", "/run"} {
		if parent == "" {
			continue
		}
		if dir, err = os.MkdirTemp(parent, "zvhost-keeper-"); err == nil {
			break
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w (set TMPDIR to a directory that can be written)", err)
	}
	path := dir + "/notify"
	if c, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}); err == nil {
		// The child may change its user. Only the keeper's user can enter the directory.
		if err = os.Chmod(path, 0o777); err == nil {
			addr, err = os.OpenFile(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		}
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}
	return c, addr, errors.Join(err, os.RemoveAll(dir))
}

// read reads messages until the socket is closed.
func (s *store) read() {
	defer close(s.ended)
	strangers := false
	b, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(253*4)+unix.CmsgSpace(unix.SizeofUcred))
	for {
		n, oobn, flags, _, err := s.conn.ReadMsgUnix(b, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			s.log("the notification socket: %v", err)
			continue
		}
		pid, fds := unpack(oob[:oobn])
		if flags&unix.MSG_CTRUNC != 0 {
			s.log("descriptors were lost on the notification socket: this process may have no more open (raise its limit of open files)")
		}
		switch text := string(b[:n]); {
		case pid == os.Getpid() && text == syncMessage:
			s.synced <- struct{}{}
		case s.isChild(pid):
			fds = s.receive(text, fds)
		case !strangers:
			strangers = true // other processes can send any number
			s.log("process %d, which is not the child, sent a notification: ignored, and so will others be", pid)
		}
		for _, fd := range fds {
			foreign.Close(fd)
		}
	}
}

// unpack reads the sender and the descriptors from control messages.
func unpack(oob []byte) (pid int, fds []int) {
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, nil
	}
	for i := range cmsgs {
		if cred, err := unix.ParseUnixCredentials(&cmsgs[i]); err == nil {
			pid = int(cred.Pid)
			continue
		}
		if more, err := unix.ParseUnixRights(&cmsgs[i]); err == nil {
			fds = append(fds, more...)
		}
	}
	return pid, fds
}

func (s *store) isChild(pid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return pid != 0 && pid == s.child
}

// receive processes a message of the child, and returns the descriptors that it has not stored
// (sd_notify(3), "Well-known assignments").
func (s *store) receive(text string, fds []int) (rest []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := "stored"
	has := map[string]bool{}
	for _, line := range strings.Split(text, "\n") {
		has[line] = true
		if v, ok := strings.CutPrefix(line, "FDNAME="); ok && v != "" && !strings.ContainsAny(v, ":\x00") {
			name = v
		}
		if strings.HasPrefix(line, "STATUS=") {
			s.notify(line)
		}
	}
	if has["READY=1"] {
		s.ready = true
		s.notify("READY=1")
	}
	switch {
	case has["FDSTORE=1"]:
		for len(fds) > 0 && len(s.stored) < capacity {
			s.stored = append(s.stored, storedFD{fds[0], name})
			fds = fds[1:]
		}
		if len(fds) > 0 {
			s.log("more than %d descriptors: %s is not stored", capacity, name)
		}
	case has["FDSTOREREMOVE=1"]:
		rest := s.stored[:0]
		for _, f := range s.stored {
			if f.name == name {
				foreign.Close(f.fd) // it may be the last one of a socket that a front-end has filled
				continue
			}
			rest = append(rest, f)
		}
		s.stored = rest
	}
	return fds
}

// sync returns when everything that was sent before has been processed.
func (s *store) sync() error {
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: fdPath(int(s.addr.Fd())), Net: "unixgram"})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte(syncMessage)); err != nil {
		return err
	}
	<-s.synced
	return nil
}

// fdPath is the path of a descriptor for the process that has it open.
func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// close drops everything.
func (s *store) close() {
	_ = foreign.HangUp(s.conn, false)
	<-s.ended
	_ = s.addr.Close()
	for _, f := range s.fixed {
		_ = f.Close()
	}
	for _, f := range s.stored {
		foreign.Close(f.fd)
	}
}
