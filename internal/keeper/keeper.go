package keeper

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

// The pause before a child that ended is started again: none if it had been serving, and
// twice as long each time if it had not. After a child has served once, the keeper gives up
// only for Options.GiveUp: a guest waits for it, Go's status for a panic is that of a wrong
// command line, and a newer file that does not start can be replaced.
const (
	firstPause = 10 * time.Millisecond
	lastPause  = 5 * time.Second
)

// secondSignal: another signal to end within this time after the first is the same request,
// since timeout(1) signals a process and then its group.
var secondSignal = time.Second

// Options describe the program to run.
type Options struct {
	// Args are the program and its arguments.
	Args []string
	// Self are arguments that make this program call Exec with what follows them.
	Self []string
	// Signals delivers the keeper's signals: SIGHUP restarts the program once it has
	// finished its work; SIGTERM and SIGINT end it and the keeper; the second of those
	// kills it, unless it comes within a second of the first.
	Signals <-chan os.Signal
	// GiveUp is the status of a program that would fail in the same way again and for which
	// no guest waits; 0: none.
	GiveUp int
	Log    func(format string, args ...any)
}

// Run runs the program until it ends by itself or a signal ends it, and returns its status.
// A program that dies is started again and gets the descriptors that it had stored. So is
// one that ends and leaves descriptors for the next process, as zvhost does after SIGTERM.
func Run(o Options) (status int, err error) {
	// The kernel signals the child when the thread that started it ends (PDEATHSIG).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := foreign.Guard(); err != nil {
		o.Log("no process can be made that closes the descriptors that front-ends send (%v): such a descriptor may prevent this process from ending", err)
	}
	s, err := newStore(o.Log, upstream())
	if err != nil {
		return 1, err
	}
	defer s.close()
	s.fixed = inherit()
	pause, served, ending := firstPause, false, false
	var asked time.Time // when it was first signalled to end
	for {
		ended, err := s.start(&o)
		if err != nil {
			if !served {
				return 1, err
			}
			o.Log("%s cannot be started: %v; trying again", o.Args[0], err)
			if wait(&o, pause) {
				return 1, nil
			}
			pause = min(2*pause, lastPause)
			continue
		}
		again := false
		var state *os.ProcessState
		for state == nil {
			select {
			case state = <-ended:
			case sig := <-o.Signals:
				switch {
				case sig == unix.SIGHUP:
					o.Log("%v: starting %s anew", sig, o.Args[0])
					again = true
					s.signal(unix.SIGTERM)
				case ending && time.Since(asked) < secondSignal:
					o.Log("%v within %v of the first signal: taken for the same request", sig, secondSignal)
				case ending:
					o.Log("%v again: killing %s", sig, o.Args[0])
					s.signal(unix.SIGKILL)
				default:
					ending, asked = true, time.Now()
					s.signal(unix.SIGINT)
				}
			}
		}
		ready := s.isReady()
		served = served || ready
		code := state.ExitCode() // -1: a signal
		switch {
		case ending, code == 0 && !again && s.isEmpty():
			return max(code, 0), nil
		case code > 0 && (!served || code == o.GiveUp):
			return code, nil // a retry does not correct a wrong command line
		case again && code == 0:
			continue
		case ready:
			pause = firstPause
		}
		o.Log("%s ended (%v): starting it again", o.Args[0], state)
		if wait(&o, pause) {
			if code == 0 {
				return 0, nil // a manager that has stopped both ended the program first
			}
			o.Log("%s is not started again: what it had in flight is not finished", o.Args[0])
			return 1, nil
		}
		pause = min(2*pause, lastPause)
	}
}

// wait waits for the pause, and reports whether a signal came meanwhile that ends the
// keeper.
func wait(o *Options, pause time.Duration) (end bool) {
	t := time.NewTimer(pause)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return false
		case sig := <-o.Signals:
			return sig != unix.SIGHUP
		}
	}
}

// start starts the child. When it has ended, and all its messages have been read, the
// channel gets its state.
func (s *store) start(o *Options) (<-chan *os.ProcessState, error) {
	cmd, done, err := s.command(o.Self, o.Args)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.ready = false
	err = cmd.Start() // with the lock: its messages are read once its process id is known
	if err == nil {
		s.child = cmd.Process.Pid
	}
	s.mu.Unlock()
	done()
	if err != nil {
		return nil, err
	}
	ended := make(chan *os.ProcessState, 1)
	go func() {
		var exit *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
			o.Log("waiting for %s: %v", o.Args[0], err)
		}
		if err := s.sync(); err != nil {
			o.Log("the notification socket: %v", err)
		}
		s.mu.Lock()
		s.child = 0
		s.mu.Unlock()
		ended <- cmd.ProcessState
	}()
	return ended, nil
}

// signal sends sig to the child, if it runs.
func (s *store) signal(sig unix.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.child != 0 {
		_ = unix.Kill(s.child, sig) // it may just have ended
	}
}

func (s *store) isReady() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

func (s *store) isEmpty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.stored) == 0
}

// upstream passes the child's status messages on to the service manager that has started
// the keeper, if there is one.
func upstream() func(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return func(string) {}
	}
	return func(state string) {
		c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			return
		}
		_, _ = c.Write([]byte(state)) // nothing depends on it
		_ = c.Close()
	}
}
