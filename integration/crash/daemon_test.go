package crash

import (
	"bufio"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// build builds zvhost as it is shipped, or with a bug that a build tag plants.
func build(t *testing.T, tag string) (binary string) {
	t.Helper()
	binary = filepath.Join(t.TempDir(), "zvhost")
	cmd := exec.Command("go", "build", "-tags", tag, "-o", binary, "github.com/zvhost/zvhost/cmd/zvhost")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return binary
}

// A daemon is zvhost in a process of its own.
type daemon struct {
	cmd     *exec.Cmd
	serving chan struct{} // closed when it says so
	ended   chan struct{} // closed when its log ends

	mu  sync.Mutex
	log strings.Builder
}

// launch starts zvhost on the image of dir.
func launch(binary, dir string) (*daemon, error) {
	// Names inside dir, for a socket's may not be long.
	return launchAs(binary, dir, nil, "serve", "--socket-path", "s", "--blk-file", "disk.zvh", "--queues", fmt.Sprint(queues))
}

// launchAs starts a command of zvhost that serves the image of dir.
func launchAs(binary, dir string, env []string, args ...string) (*daemon, error) {
	p := &daemon{serving: make(chan struct{}), ended: make(chan struct{})}
	p.cmd = exec.Command(binary, args...)
	p.cmd.Dir = dir
	p.cmd.Env = append(p.cmd.Environ(), env...)
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.ended)
		said := false
		for r := bufio.NewScanner(stderr); r.Scan(); {
			p.mu.Lock()
			p.log.WriteString(r.Text() + "\n")
			p.mu.Unlock()
			if !said && strings.Contains(r.Text(), ".zvh on ") {
				said = true
				close(p.serving)
			}
		}
	}()
	return p, nil
}

// ready waits until it serves.
func (p *daemon) ready() error {
	select {
	case <-p.serving:
		return nil
	case <-p.ended:
		return fmt.Errorf("zvhost did not start: %w\n%s", p.cmd.Wait(), p.logged())
	}
}

func (p *daemon) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// kill ends it with SIGKILL, and returns when nothing of it runs any more.
func (p *daemon) kill() {
	_ = p.cmd.Process.Kill() // it fails when it is gone already
	<-p.ended
	_ = p.cmd.Wait()
}

// restart starts zvhost anew after a kill: now and then it is killed while it
// starts, and started once more. It returns how often that was.
func restart(binary, dir string, rng interface{ IntN(int) int }) (p *daemon, killed int, err error) {
	for ; rng.IntN(6) == 0; killed++ {
		p, err := launch(binary, dir)
		if err != nil {
			return nil, killed, err
		}
		time.Sleep(time.Duration(rng.IntN(12_000)) * time.Microsecond)
		p.kill()
	}
	if p, err = launch(binary, dir); err == nil {
		err = p.ready()
	}
	return p, killed, err
}

// run runs a command of zvhost that ends by itself.
func run(binary, dir string, args ...string) ([]byte, error) {
	cmd := exec.Command(binary, args...)
	cmd.Dir = dir
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("zvhost %s: %w: %s%s", strings.Join(args, " "), err, out, errs.String())
	}
	return out, nil
}
