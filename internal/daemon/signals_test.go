package daemon

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/testlog"
)

// signalled is a daemon in a process of its own, whose disk hangs: it ends only by
// force.
type signalled struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

// startSignalled starts one through /bin/sh, which runs before first, and waits until it
// is up.
func startSignalled(t *testing.T, before string) *signalled {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", before+` exec "$0"`, self)
	cmd.Env = append(os.Environ(), asHanging+"=1")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &signalled{t: t, cmd: cmd, lines: bufio.NewScanner(stderr)}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_, _ = io.Copy(io.Discard, stderr)
			_ = cmd.Wait()
		}
	})
	p.until("up")
	return p
}

// until reads the log until a line has words.
func (p *signalled) until(words string) {
	p.t.Helper()
	for p.lines.Scan() {
		if strings.Contains(p.lines.Text(), words) {
			return
		}
	}
	p.t.Fatalf("it ended without saying %q", words)
}

func (p *signalled) send(sig unix.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

// endsAtOnce waits for the end by a second signal.
func (p *signalled) endsAtOnce() {
	p.t.Helper()
	p.until(" again: ending at once")
	if err := p.cmd.Wait(); p.cmd.ProcessState.ExitCode() != 1 {
		p.t.Errorf("it ended with %v", err)
	}
}

// The first signal asks for an end, a later one makes it: also when the disk hangs, and
// with a status that says that it was not a clean one.
func TestSecondSignalEndsItAtOnce(t *testing.T) {
	p := startSignalled(t, "")
	p.send(unix.SIGTERM)
	p.until("terminated: ending")
	time.Sleep(secondSignal) // less would be the same request
	p.send(unix.SIGINT)
	p.endsAtOnce()
}

// timeout(1) sends SIGTERM to the process and to its group: that is one request, which
// does not cut short the wait for requests in flight.
func TestSignalsThatComeTogetherAreOne(t *testing.T) {
	log, book := testlog.New()
	signals := make(chan os.Signal, 3)
	first := time.Now()
	signals <- unix.SIGTERM
	signals <- unix.SIGHUP
	close(signals)
	if sig := nextSignal(signals, first.Add(time.Hour), log); sig != nil { // however slow this machine is
		t.Errorf("%v counts as a second signal", sig)
	}
	if n := strings.Count(book.String(), "taken for the same request"); n != 1 {
		t.Errorf("%d lines:\n%s", n, book)
	}
	signals = make(chan os.Signal, 1)
	signals <- unix.SIGINT
	if sig := nextSignal(signals, first.Add(-secondSignal), log); sig != unix.SIGINT {
		t.Errorf("%v instead of the second signal", sig)
	}
}

// A signal that the parent has ignored, as nohup(1) does with SIGHUP and a shell with
// SIGINT for what it puts into the background, stays ignored.
func TestIgnoredSignalsStayIgnored(t *testing.T) {
	p := startSignalled(t, "trap '' HUP INT;")
	p.send(unix.SIGHUP)
	p.send(unix.SIGINT)
	p.send(unix.SIGTERM)
	// The kernel delivers pending signals in the order of their numbers, so a SIGHUP
	// that counts would be the first.
	p.until("ending, once")
	if line := p.lines.Text(); !strings.Contains(line, "terminated: ending") {
		t.Errorf("another signal than SIGTERM has ended it: %s", line)
	}
	time.Sleep(secondSignal)
	p.send(unix.SIGTERM)
	p.endsAtOnce()
}
