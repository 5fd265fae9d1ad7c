package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/zvhost/zvhost/internal/device"
	"github.com/zvhost/zvhost/internal/logging"
	"github.com/zvhost/zvhost/internal/vfio"
	"github.com/zvhost/zvhost/vhostuser/handover"
	"github.com/zvhost/zvhost/virtio/transport"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/internal/control"
	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vhostuser"
)

// handOver is how long a front-end that connects while another one is served waits for that
// one to leave. A virtual machine that restarts connects while the daemon still finishes the
// requests in flight of the old one, or waits for the rest of its last message: hence the
// margin.
const handOver = vhostuser.MessageLimit + time.Second

// Run serves the disk of c until ctx ends or, with a connected socket in c.FD,
// until the front-end leaves. On the way out requests in flight are finished,
// the disk is synced and the socket file removed.
func Run(ctx context.Context, c Config, log *logrus.Logger) error {
	c.warn = func(text string) { log.Warn(text) }
	if err := foreign.Guard(); err != nil {
		log.Warnf("no process can be made that closes the descriptors that front-ends send (%v): such a descriptor may prevent this process from ending", err)
	}
	h := new(passedOn)
	if c.FD == NoFD {
		var err error
		if h, err = activated(log); err != nil {
			return h.startFailed(&c, err)
		}
	}
	if err := checkFileLimit(c.Queues); err != nil {
		h.leave()
		return h.startFailed(&c, err)
	}
	// The disk before the socket: a second daemon fails at its lock.
	open, detached := c.openDisk, (h.wasDetached() || c.Incoming) && c.NullSectors == 0
	if detached {
		open = c.lookAtDisk
	}
	disk, err := open()
	if err != nil {
		h.leave()
		return h.startFailed(&c, err)
	}
	disk, err = serveDisk(ctx, &c, h, disk, detached, log)
	err = h.startFailed(&c, err)
	defer logging.WarnLate(log, logging.Patience, "the end of the daemon")()
	if cerr := disk.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("closing %s: %w", c.what(), cerr))
	}
	warnOfUnclosed(log)
	return err
}

// serveDisk serves disk, which is detached or not, and returns the one to close in its place.
func serveDisk(ctx context.Context, c *Config, h *passedOn, disk disk.Disk, detached bool, log *logrus.Logger) (disk.Disk, error) {
	done := h.leave // a guest may wait for what was passed on: leave it to a process that can begin
	defer func() { done() }()
	aio, err := device.ChooseEngine(c.AIO, disk.Info(), engine.Kind.Probe, log)
	if err != nil {
		return disk, err
	}
	reopen, look := c.reopener(disk.Info())
	dev, err := device.New(disk, device.Options{
		Queues: c.Queues, Serial: c.Serial, SplitRings: c.SplitRings, Engine: aio, OrThreads: c.AIO == "", PollMax: c.PollMax, Log: log,
		Open: reopen, Look: look, Detached: detached, Note: h.store.noteDetached,
	})
	if err != nil {
		return disk, err
	}
	d, err := openDoor(c, h, dev, log)
	var ctl *controller
	if err == nil {
		if ctl, err = openControl(c.ControlPath, disk, dev, log); err != nil {
			err = errors.Join(err, d.giveUp())
		}
	}
	if err == nil {
		done, h.serving = h.close, true
		log.Infof("serving %s on %s: %s", c.what(), d.where(), describeDisk(disk.Info()))
		if detached {
			log.Infof("%s is left to another zvhost until queues start here", c.what())
		}
		device.WarnOfFaults(log, disk)
		warnOfLastPart(log, c.BlkFile, disk.Info())
		err = errors.Join(d.run(ctx), ctl.stopListening())
	}
	err = errors.Join(err, dev.Close())
	stopWarning := logging.WarnLate(log, logging.Patience, "a command on the control socket")
	ctl.close() // its command may have waited for requests in flight
	stopWarning()
	return dev.Disk(), err
}

// warnOfUnclosed logs, at the end, the descriptors that outlive the process.
func warnOfUnclosed(log *logrus.Logger) {
	n, err := foreign.Unclosable()
	if n == 0 {
		return
	}
	const remedy = "until their file system answers, or is aborted (FUSE: echo 1 > /sys/fs/fuse/connections/N/abort, where N is of the device 0:N that the log says it refused)"
	if err != nil {
		log.Warnf("%d descriptors of front-ends cannot be closed, and no process could be made to hold them (%v): this one may not end, and not release its image, %s", n, err, remedy)
		return
	}
	log.Warnf("%d descriptors of front-ends cannot be closed: a process zvhost-leftover holds them, and nothing else, %s", n, remedy)
}

// server lets front-ends in, one at a time.
type server struct {
	dev      transport.Device
	function *vfio.Function // as which a vfio-user client gets the device; nil: it is served over vhost-user
	log      *logrus.Logger
	trace    bool
	handOver time.Duration
	store    *fdStore        // nil: sessions end with the process
	stored   handover.Stored // the session of the previous process
	lines    *logging.Lines  // to log with what front-ends bring about
	waiting  []newcomer      // in the order in which they came
	behind   sync.WaitGroup  // releases what ended sessions have used
}

// run serves what comes through f, and closes it.
func (s *server) run(ctx context.Context, f *front) error {
	defer s.lines.Flush()
	defer s.behind.Wait()
	defer s.dismissAll()
	if f.listener == nil {
		s.notify(sd.SdNotifyReady)
		s.serve(ctx, f.conn, nil)
		return nil
	}
	session, err := s.resume()
	if err != nil {
		return errors.Join(err, f.leaveListening())
	}
	stop := func() error {
		if s.leaves(ctx) {
			return f.leaveListening()
		}
		s.store.drop(listenerName)
		return f.stopListening()
	}

	// The socket is closed first, so that no front-end connects to a daemon that only finishes
	// what is in flight.
	closed := make(chan error, 1)
	end := func() {
		s.notify(sd.SdNotifyStopping, status("ending"))
		closed <- stop()
	}
	unless := context.AfterFunc(ctx, end)
	newcomers := make(chan *net.UnixConn)
	var failed, exhausted error // failed is of the listener, once accepting is closed
	accepting := make(chan struct{})
	letIn, stopAccepting := context.WithCancel(ctx)
	defer stopAccepting()
	go func() {
		defer close(accepting)
		failed = s.accept(letIn, f.listener, newcomers)
	}()

	idle := status("waiting for a front-end on %s", f.where)
	s.notify(sd.SdNotifyReady, idle)
	if session != nil {
		s.notify(status("serving front-end %s", before))
		s.serveSession(ctx, session, before, newcomers)
		s.serveWaiting(ctx, newcomers)
	}
	for over := false; ctx.Err() == nil && !over; {
		select {
		case <-ctx.Done():
		case <-accepting:
			over = true
		case conn := <-newcomers:
			s.serve(ctx, conn, newcomers)
			s.serveWaiting(ctx, newcomers)
			if foreign.Exhausted() {
				left, _ := foreign.Left()
				exhausted = fmt.Errorf("front-ends have sent %d descriptors that cannot be closed (of file systems that are not local, or sockets that linger): ending, so that another process takes the place of this one", left)
				over = true
				stopAccepting()
			} else if ctx.Err() == nil {
				s.notify(idle)
			}
		}
	}
	if unless() { // the listener failed, or ctx has ended just now
		end()
	}
	<-accepting
	if !s.leaves(ctx) {
		s.store.drop(detachedName) // there is no session for the next process
	}
	return errors.Join(failed, exhausted, <-closed)
}

// notify sends the service manager, if there is one, a state (sd_notify(3)). A failure is
// logged only: the disk is served all the same.
func (s *server) notify(state ...string) {
	if _, err := sd.SdNotify(false, strings.Join(state, "\n")); err != nil {
		s.lines.Logf(logrus.WarnLevel, "notifying the service manager of %q: %v", state[0], err)
	}
}

// accept passes on connections until ctx ends or the listener fails.
func (s *server) accept(ctx context.Context, l *net.UnixListener, newcomers chan<- *net.UnixConn) error {
	for {
		conn, err := control.Accept(l, func(err error) {
			s.lines.Logf(logrus.ErrorLevel, "no front-end is let in at the moment: %v; it is tried again and again (raise the limit of open files, or look after the machine's memory)", errnoOf(err))
		})
		switch {
		case err == nil:
		case ctx.Err() != nil, errors.Is(err, net.ErrClosed): // closed by this process
			return nil
		default:
			return fmt.Errorf("accepting a front-end: %w", errnoOf(err))
		}
		select {
		case newcomers <- conn:
		case <-ctx.Done():
			return foreign.HangUp(conn, true)
		}
	}
}

// serveWaiting serves those that have waited, one after the other.
func (s *server) serveWaiting(ctx context.Context, newcomers <-chan *net.UnixConn) {
	for ctx.Err() == nil {
		conn := s.next()
		if conn == nil {
			return
		}
		s.serve(ctx, conn, newcomers)
	}
}

// serve runs one session to its end. Newcomers wait for a moment, and are refused if it does
// not end by then; see attend.
func (s *server) serve(ctx context.Context, conn *net.UnixConn, newcomers <-chan *net.UnixConn) {
	who := peerName(conn)
	s.lines.Logf(logrus.InfoLevel, "front-end %s: connected", who)
	s.notify(status("serving front-end %s", who))
	session, err := s.newSession(conn, who)
	if err != nil {
		s.lines.Logf(logrus.WarnLevel, "front-end %s: no session: %v", who, err)
		_ = foreign.HangUp(conn, true)
		return
	}
	s.serveSession(ctx, session, who, newcomers)
}

func (s *server) options(who string) vhostuser.Options {
	return vhostuser.Options{Log: s.sessionLog(who), Trace: s.trace, Store: s.store.sessions(), Behind: s.behind.Go}
}

// before names the front-end of a session of the previous process in the log.
const before = "of the previous process"

// resume resumes the session of the previous process, nil if there is none. An error is the
// reason why this process must neither resume it nor serve another front-end.
func (s *server) resume() (*vhostuser.Session, error) {
	if s.store == nil || len(s.stored) == 0 || s.function != nil {
		return nil, nil
	}
	session, err := vhostuser.ResumeSession(s.stored, s.dev, s.options(before))
	switch {
	case errors.Is(err, handover.ErrNothingStored):
		return nil, nil
	case errors.As(err, new(handover.UnfitError)):
		return nil, err
	case err != nil:
		s.log.Errorf("front-end %s: %v; its connection is closed", before, err)
		return nil, nil
	}
	s.log.Infof("front-end %s: session resumed", before)
	return session, nil
}

// leaves reports whether the process ends and leaves the session and the socket to the next
// one.
func (s *server) leaves(ctx context.Context) bool {
	return s.store != nil && errors.Is(context.Cause(ctx), errHandOver)
}

// serveSession runs session to its end; see serve.
func (s *server) serveSession(ctx context.Context, session session, who string, newcomers <-chan *net.UnixConn) {
	leaves := func() bool { return s.function == nil && s.leaves(ctx) }
	ended := make(chan error, 1)
	go func() { ended <- session.Run() }()
	defer context.AfterFunc(ctx, func() {
		if leaves() {
			session.Suspend()
			return
		}
		session.Close()
	})()
	look := time.NewTicker(lookPeriod)
	defer look.Stop()
	for {
		from, now := newcomers, look.C
		if len(s.waiting) == 0 {
			now = nil
		}
		if len(s.waiting) >= maxNewcomers || foreign.Exhausted() {
			from = nil // others, and what they have sent, stay in the socket's backlog
		}
		select {
		case err := <-ended:
			switch {
			case err != nil:
				s.lines.Logf(logrus.WarnLevel, "front-end %s: session ended: %v", who, err)
			case leaves():
				s.log.Infof("front-end %s: left to the next process", who)
			default:
				s.lines.Logf(logrus.InfoLevel, "front-end %s: left", who)
			}
			return
		case conn := <-from:
			s.wait(conn)
			s.attend(session, who)
		case <-now:
			s.attend(session, who)
		}
	}
}

// sessionLog passes a session's lines on to the log.
func (s *server) sessionLog(who string) vhostuser.LogFunc {
	levels := map[vhostuser.Level]logrus.Level{
		vhostuser.LevelDebug: logrus.DebugLevel,
		vhostuser.LevelInfo:  logrus.InfoLevel,
		vhostuser.LevelWarn:  logrus.WarnLevel,
	}
	return func(level vhostuser.Level, format string, args ...any) {
		s.lines.Logf(levels[level], "front-end %s: "+format, append([]any{who}, args...)...)
	}
}

// peerName names the process at the other end: its number, as it was when it
// connected (SO_PEERCRED, unix(7)), for the operator.
func peerName(conn *net.UnixConn) string {
	const unknown = "(unknown process)"
	raw, err := conn.SyscallConn()
	if err != nil {
		return unknown
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if cerr != nil || err != nil || cred.Pid == 0 { // 0: in a PID namespace that is not visible here
		return unknown
	}
	return fmt.Sprintf("pid %d", cred.Pid)
}

// describeDisk describes the disk that is served, in one line.
func describeDisk(i disk.Info) string {
	text := "ordinary disk of " + logging.Size(i.CapacitySectors)
	if z := i.Zoned; z != nil {
		text = fmt.Sprintf("host-managed disk of %s, %d zones of %s", logging.Size(i.CapacitySectors), z.Zones, logging.Size(z.ZoneSectors))
	}
	text += fmt.Sprintf(", %d-byte blocks", i.LogicalBlockSize)
	if i.ReadOnly {
		text += ", read-only"
	}
	return text
}
