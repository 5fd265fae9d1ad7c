package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

// A front is where front-ends come from: a listening socket, or one connection
// that exists already.
type front struct {
	listener *net.UnixListener // nil when conn is set
	conn     *net.UnixConn     // the only front-end there will be
	where    string            // for people: a path, or a file descriptor

	// path is the socket file to remove at the end, known by its device and
	// inode; empty when the socket is someone else's.
	path     string
	dev, ino uint64
	before   bool // it was there before this process, in the fd store
}

// openFront listens, or takes over the socket that the parent or the service manager has
// passed on.
func openFront(c *Config, h *passedOn, log logrus.FieldLogger) (*front, error) {
	if c.FD != NoFD {
		f, err := inherited(os.NewFile(uintptr(c.FD), "fd"), fmt.Sprintf("--fd=%d", c.FD))
		if err != nil {
			err = lasting(err)
		}
		return f, err
	}
	if h.socket != nil {
		file := h.socket
		h.socket = nil
		return fromActivation(file, c.endpoint())
	}
	if c.endpoint().path == "" {
		return nil, lasting(errors.New("nowhere to listen: give --socket-path=PATH, --vfio-user=PATH, --fd=N, or start zvhost from a systemd socket unit"))
	}
	if f := h.stored[listenerName]; f != nil {
		delete(h.stored, listenerName)
		if f := fromStore(f, c.endpoint().path); f != nil {
			if err := f.allow(c); err != nil {
				log.Warnf("%s: the socket of the previous process has not the permissions of --socket-mode and --socket-group: %v", f.where, err)
			}
			return f, nil
		}
	}
	f, err := listenAgain(c)
	if err == nil && h.store != nil {
		h.store.drop(listenerName) // one in the store has another path
		err = f.persist(h.store)
	}
	return f, err
}

// fromStore takes over the listening socket of the previous process, if path names it.
func fromStore(fd *foreign.FD, path string) *front {
	n := fd.Int()
	dup, err := unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 3)
	_ = fd.Close()
	if err != nil {
		return nil
	}
	f, err := inherited(os.NewFile(uintptr(dup), "listener"), path)
	if err != nil {
		return nil
	}
	var st unix.Stat_t
	if f.listener == nil || f.listener.Addr().String() != path+nameSuffix || unix.Lstat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		_ = f.close()
		return nil
	}
	f.listener.SetUnlinkOnClose(false)
	f.path, f.dev, f.ino, f.before = path, st.Dev, st.Ino, true
	return f
}

// allow gives the socket of the previous process the group and the mode of c.
func (f *front) allow(c *Config) error {
	err := f.setGroup(c.SocketGroup)
	if merr := os.Chmod(f.path, c.SocketMode); err == nil {
		err = merr
	}
	return err
}

// setGroup gives the socket file its group; empty: it has it.
func (f *front) setGroup(group string) error {
	if group == "" {
		return nil
	}
	gid, err := groupID(group)
	if err == nil {
		err = os.Lchown(f.path, -1, gid)
	}
	if err != nil {
		return fmt.Errorf("giving the socket to its group: %w", err)
	}
	return nil
}

// persist puts the listening socket into the fd store, so that front-ends can connect while
// the daemon is restarted.
func (f *front) persist(s *fdStore) error {
	raw, err := f.listener.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) { err = s.put(listenerName, int(fd)) })
		err = errors.Join(err, cerr)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("putting the socket into the fd store: %w", err), f.close())
	}
	return nil
}

// listenAgain makes the socket that c names.
func listenAgain(c *Config) (*front, error) {
	return listen(c.endpoint())
}

// endpoint is the socket file that c names; of an empty path, none.
func (c *Config) endpoint() endpoint {
	e := endpoint{option: "--socket-path", path: c.SocketPath, mode: c.SocketMode, group: c.SocketGroup}
	if c.VFIOUser != "" {
		e.option, e.path = "--vfio-user", c.VFIOUser
	}
	return e
}

// fromActivation takes over the socket of a socket unit. When a path was given
// too, as in a service unit that works with and without its socket unit, the
// two must be the same.
func fromActivation(file *os.File, e endpoint) (*front, error) {
	f, err := inherited(file, "the socket handed over by systemd")
	if err != nil {
		return nil, lasting(err)
	}
	if f.listener == nil {
		return nil, errors.Join(lasting(errors.New("the socket handed over by systemd is connected, not listening: set Accept=no in the socket unit")), f.close())
	}
	bound := f.listener.Addr().String()
	if e.path != "" && !samePath(e.path, bound) {
		return nil, errors.Join(lasting(fmt.Errorf("systemd listens on %s, but %s says %s: make the socket unit and the service agree", bound, e.option, e.path)), f.close())
	}
	f.where = bound
	return f, nil
}

// samePath compares two spellings of a path, symbolic links of the directory
// apart.
func samePath(a, b string) bool {
	if a == b {
		return true
	}
	sa, errA := os.Stat(a)
	sb, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(sa, sb)
}

// inherited takes over an open socket, which it closes in any case; where names it in
// errors. A socket that listens takes one front-end after
// the other; vhost-user.rst leaves open which of the two --fd is, and both are
// in use.
func inherited(file *os.File, where string) (*front, error) {
	defer func() { _ = file.Close() }() // net has its own duplicate
	fd := int(file.Fd())
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return nil, fmt.Errorf("%s: not an open socket: %w", where, err)
	}
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	if domain != unix.AF_UNIX || typ != unix.SOCK_STREAM {
		return nil, fmt.Errorf("%s: not a UNIX stream socket, which vhost-user needs", where)
	}
	if listening != 0 {
		l, err := net.FileListener(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		return &front{listener: l.(*net.UnixListener), where: where}, nil
	}
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	return &front{conn: conn.(*net.UnixConn), where: where}, nil
}

// An endpoint is a socket file to listen on.
type endpoint struct {
	option string // the option that names it, for errors
	path   string
	mode   fs.FileMode
	group  string // empty: the daemon's own
}

// listen makes the socket of e, in place of one that no process listens on any more. It is
// made under another name and renamed: a process that finds the file can connect, so scripts
// may wait for it.
func listen(e endpoint) (*front, error) {
	unlock, err := lockDir(filepath.Dir(e.path), e.option, lockPatience)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := removeStale(e.path, e.option); err != nil {
		return nil, err
	}
	name := e.path + nameSuffix
	if err := removeStale(name, e.option); err != nil { // of a daemon that was killed just here
		return nil, err
	}

	// The mode is right from the first moment on: what bind creates has the
	// bits that the umask leaves. This runs before any other goroutine creates
	// files.
	old := unix.Umask(0o777 &^ int(e.mode))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", e.path, errnoOf(err))
	}
	l.SetUnlinkOnClose(false) // close does it, if the file is still ours
	f := &front{listener: l, where: e.path, path: name}
	if err := f.publish(e); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

// nameSuffix is what a socket's path has at its end until it is ready.
const nameSuffix = "~"

// publish gives the socket file its group and then its name.
func (f *front) publish(e endpoint) error {
	var st unix.Stat_t
	if err := unix.Lstat(f.path, &st); err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	f.dev, f.ino = st.Dev, st.Ino
	if err := f.setGroup(e.group); err != nil {
		return err
	}
	if err := os.Rename(f.path, e.path); err != nil {
		return fmt.Errorf("the socket's path: %w", err)
	}
	f.path = e.path
	return nil
}

// removeStale removes a socket file that no process has bound any more. A live
// one is an error, and so is a file that is no socket.
func removeStale(path, option string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("the socket's path: %w", err)
	case st.Mode().Type() != fs.ModeSocket:
		return lasting(fmt.Errorf("%s=%s: %s, not a socket: give another path, of a file that does not exist", option, path, kindOf(st.Mode())))
	}
	live, err := isBound(path)
	if err != nil {
		return fmt.Errorf("%s: cannot tell whether another process listens there: %w", path, err)
	}
	if live {
		return fmt.Errorf("%s: another process listens there: give another %s, or stop that process first", path, option)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the stale socket: %w", err)
	}
	return nil
}

// kindOf describes a file that is no socket.
func kindOf(m fs.FileMode) string {
	switch m.Type() {
	case fs.ModeDir:
		return "is a directory"
	case fs.ModeSymlink:
		return "is a symbolic link"
	case fs.ModeNamedPipe:
		return "is a named pipe"
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		return "is a device"
	}
	return "is a file"
}

// isBound reports whether a process has a socket bound to the file at path. It
// disturbs none: a datagram socket cannot connect to a stream socket, and the
// kernel tells that apart from a file with nothing behind it (EPROTOTYPE and
// ECONNREFUSED; net/unix/af_unix.c, unix_find_bsd).
func isBound(path string) (bool, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer func() { _ = unix.Close(fd) }()
	switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err {
	case unix.ECONNREFUSED, unix.ENOENT:
		return false, nil
	case nil, unix.EPROTOTYPE:
		return true, nil
	default:
		return false, err
	}
}

// isAt says whether path is another spelling of where front-ends connect.
func (f *front) isAt(path string) bool {
	at := f.path
	if at == "" && f.listener != nil {
		at = f.listener.Addr().String()
	}
	return at != "" && path != "" && samePath(at, path)
}

// leaveListening stops listening in this process. The socket remains in the fd store.
func (f *front) leaveListening() error {
	if f.listener == nil {
		return nil
	}
	f.path = ""
	return f.listener.Close()
}

// stopListening ends the coming of front-ends and removes the socket file, if
// it is the one that listen made.
func (f *front) stopListening() error {
	if f.listener == nil {
		return nil
	}
	var st unix.Stat_t
	var errs []error
	if f.path != "" && unix.Lstat(f.path, &st) == nil && st.Dev == f.dev && st.Ino == f.ino {
		errs = append(errs, os.Remove(f.path))
	}
	f.path = ""
	errs = append(errs, foreign.HangUp(f.listener, false)) // some may have come that were not let in
	return errors.Join(errs...)
}

// giveUp is for a process that does not begin to serve: it removes the socket that it has
// made, and leaves one of the previous process to the next.
func (f *front) giveUp(s *fdStore) error {
	if f.before {
		return f.leaveListening()
	}
	if f.path != "" {
		s.drop(listenerName)
	}
	return f.close()
}

// close gives up everything that a server has not taken over.
func (f *front) close() error {
	err := f.stopListening()
	if f.conn != nil {
		err = errors.Join(err, foreign.HangUp(f.conn, true))
	}
	return err
}

// errnoOf is the errno at the bottom of a net error, whose own words repeat the
// address.
func errnoOf(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
