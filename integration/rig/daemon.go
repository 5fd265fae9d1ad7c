package rig

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/frontend"
)

// Build builds zvhost into dir, without the race detector and with build tags: none for
// what is shipped. bug is the bug that is planted in it, none where it is empty
// (internal/plant).
func Build(dir, tags, bug string) (binary string, err error) {
	binary = filepath.Join(dir, "zvhost")
	args := []string{"build", "-trimpath", "-o", binary}
	if bug != "" {
		tags += ",zvhost_plant"
		args = append(args, "-ldflags", "-X github.com/zvhost/zvhost/internal/plant.bug="+bug)
	}
	cmd := exec.Command("go", append(args, "-tags", tags, "github.com/zvhost/zvhost/cmd/zvhost")...)
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %w\n%s", cmd, err, out)
	}
	return binary, nil
}

// A Daemon is zvhost, or a keeper with one, in a process of its own.
type Daemon struct {
	Cmd     *exec.Cmd
	serving chan struct{} // closed when it says so
	ended   chan struct{} // closed when its log ends

	mu  sync.Mutex
	log strings.Builder
}

// Start starts a command of zvhost that serves.
func Start(cmd *exec.Cmd) (*Daemon, error) {
	p := &Daemon{Cmd: cmd, serving: make(chan struct{}), ended: make(chan struct{})}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.ended)
		said := false
		for r := bufio.NewScanner(stderr); r.Scan(); {
			p.mu.Lock()
			p.log.WriteString(r.Text() + "\n")
			p.mu.Unlock()
			if !said && strings.Contains(r.Text(), " serving ") {
				said = true
				close(p.serving)
			}
		}
	}()
	return p, nil
}

// Serve starts a command of zvhost, and waits until it serves. Nobody connects for
// that: a session is something that may be told of lost data.
func Serve(binary string, args ...string) (*Daemon, error) {
	p, err := Start(exec.Command(binary, args...))
	if err == nil {
		err = p.Ready()
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// notStarted is what a keeper says that is ended between one daemon and the next.
const notStarted = "is not started again"

// patience is how long a start may take, on a machine that is busy.
const patience = 2 * time.Minute

// Ready waits until it serves. It is gone when that fails.
func (p *Daemon) Ready() error {
	select {
	case <-p.serving:
		return nil
	case <-p.ended:
		return fmt.Errorf("zvhost did not start: %w\n%s", p.Cmd.Wait(), p.Log())
	case <-time.After(patience):
		_ = p.Cmd.Process.Kill()
		return fmt.Errorf("zvhost does not serve after %v:\n%s", patience, p.Log())
	}
}

// Log is what it has said by now.
func (p *Daemon) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// Gone says whether it has ended by itself.
func (p *Daemon) Gone() error {
	select {
	case <-p.ended:
		return fmt.Errorf("zvhost left by itself:\n%s", p.Log())
	default:
		return nil
	}
}

// End sends it a signal and waits until nothing of it runs any more. What comes of
// SIGKILL is no error, nor that a keeper is ended whose daemon was killed just before.
func (p *Daemon) End(s unix.Signal) error {
	_ = p.Cmd.Process.Signal(s) // it fails when it is gone already
	<-p.ended
	if err := p.Cmd.Wait(); err != nil && s != unix.SIGKILL && !strings.Contains(p.Log(), notStarted) {
		return fmt.Errorf("zvhost ended with %w\n%s", err, p.Log())
	}
	return nil
}

// Child is the number of the process that a keeper has for the daemon, 0 while there
// is none.
func (p *Daemon) Child() int {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.Cmd.Process.Pid))
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for _, pid := range strings.Fields(string(text)) {
			name, err := os.ReadFile("/proc/" + pid + "/comm")
			if n, aerr := strconv.Atoi(pid); err == nil && aerr == nil && string(name) != "zvhost-leftover\n" {
				return n
			}
		}
	}
	return 0
}

// KillChild kills the daemon of a keeper, and says whether there was one.
func (p *Daemon) KillChild() bool {
	pid := p.Child()
	return pid != 0 && unix.Kill(pid, unix.SIGKILL) == nil
}

// Connect opens the disk that is served on socket.
func Connect(socket string, o frontend.Options) (*frontend.Disk, error) {
	c, err := frontend.Dial(socket)
	if err != nil {
		return nil, err
	}
	return frontend.Open(c, o)
}
