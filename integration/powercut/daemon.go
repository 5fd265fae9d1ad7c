package main

import (
	"bufio"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/frontend"
)

// A daemon is zvhost in a process of its own, with an image and a socket.
type daemon struct {
	cmd     *exec.Cmd
	socket  string
	serving chan struct{} // closed when it says so
	ended   chan struct{} // closed when its log ends

	mu  sync.Mutex
	log strings.Builder
}

// serve starts zvhost on an image, and waits until it serves.
func serve(binary, image, socket string) (*daemon, error) {
	p := &daemon{socket: socket, serving: make(chan struct{}), ended: make(chan struct{})}
	p.cmd = exec.Command(binary, "serve", "--socket-path", socket, "--blk-file", image, "--queues", fmt.Sprint(queues))
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
			if !said && strings.Contains(r.Text(), "serving "+filepath.Dir(image)) {
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

func (p *daemon) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// gone says whether it has ended by itself.
func (p *daemon) gone() error {
	select {
	case <-p.ended:
		return fmt.Errorf("zvhost left by itself:\n%s", p.logged())
	default:
		return nil
	}
}

// end sends it a signal and waits until nothing of it runs any more.
func (p *daemon) end(s unix.Signal) error {
	_ = p.cmd.Process.Signal(s) // it fails when it is gone already
	<-p.ended
	if err := p.cmd.Wait(); err != nil && s != unix.SIGKILL {
		return fmt.Errorf("zvhost ended with %w\n%s", err, p.logged())
	}
	return nil
}

func (p *daemon) connect() (*frontend.Disk, error) {
	client, err := frontend.Dial(p.socket)
	if err != nil {
		return nil, err
	}
	return frontend.Open(client, frontend.Options{Queues: queues, QueueSize: 64, Depth: depth, BufferBytes: bufferBytes})
}
