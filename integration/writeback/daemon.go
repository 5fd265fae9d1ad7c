package main

import (
	"bufio"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

const (
	sectorBytes = 512
	queues      = 4
	bufferBytes = 256 << 10
)

// A daemon is zvhost in a process of its own, with a file and a socket.
type daemon struct {
	cmd     *exec.Cmd
	socket  string
	serving chan struct{} // closed when it says so
	ended   chan struct{} // closed when its log ends

	mu  sync.Mutex
	log strings.Builder
}

// serve starts zvhost on a file, and waits until it serves. Nobody connects for
// that: a session is something that may be told of lost data.
func (h *host) serve(file string) (*daemon, error) {
	p := &daemon{socket: h.path("s"), serving: make(chan struct{}), ended: make(chan struct{})}
	p.cmd = exec.Command(h.zvhost, "serve", "--socket-path", p.socket, "--blk-file", file, "--queues", fmt.Sprint(queues))
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
			if !said && strings.Contains(r.Text(), "serving "+file) {
				said = true
				close(p.serving)
			}
		}
	}()
	select {
	case <-p.serving:
		return p, nil
	case <-p.ended:
		return nil, fmt.Errorf("zvhost did not start: %w\n%s", p.cmd.Wait(), p.logged())
	}
}

// serveAgain starts zvhost as often as it takes, as systemd or a keeper would: who is
// told of lost data as it starts ends.
func (h *host) serveAgain(file string) (p *daemon, err error) {
	for range 3 {
		if p, err = h.serve(file); err == nil {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%w: it does not start again: %w", errFound, err)
}

func (p *daemon) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// end sends it a signal and waits until nothing of it runs any more. One that knows
// of lost data may say so with its status.
func (p *daemon) end(s unix.Signal, lost bool) error {
	_ = p.cmd.Process.Signal(s) // it fails when it is gone already
	<-p.ended
	if err := p.cmd.Wait(); err != nil && s != unix.SIGKILL && !(lost && errors.As(err, new(*exec.ExitError)) && p.cmd.ProcessState.Exited()) {
		return fmt.Errorf("zvhost ended with %w\n%s", err, p.logged())
	}
	return nil
}

func (p *daemon) connect() (*frontend.Disk, error) {
	client, err := frontend.Dial(p.socket)
	if err != nil {
		return nil, err
	}
	return frontend.Open(client, frontend.Options{Queues: queues, QueueSize: 64, Depth: 2, BufferBytes: bufferBytes})
}

// through has the disk write through, or back.
func through(d *frontend.Disk, on bool) error {
	const writebackOffset = 32 // struct virtio_blk_config
	value := []byte{1}
	if on {
		value[0] = 0
	}
	return d.Client.SetConfig(writebackOffset, value)
}

// failed says whether a request has failed for the disk under it; any other error
// is returned.
func failed(err error) (bool, error) {
	switch frontend.Status(err) {
	case driver.StatusOK:
		return false, nil
	case driver.StatusIOErr:
		return true, nil
	}
	return false, err
}

// pattern is n bytes that stand nowhere by chance.
func pattern(seed byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i>>12) | 1
	}
	return b
}
