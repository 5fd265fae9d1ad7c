package main

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/frontend"
)

const (
	queues      = 4
	depth       = 8 // requests of the load in flight on each
	bufferBytes = 64 << 10
)

// A daemon is zvhost in a process of its own, which serves the drive.
type daemon struct {
	cmd *exec.Cmd
	log bytes.Buffer // to be read when it has ended
}

// serve starts zvhost, behind what comes before its "serve", and waits until it
// listens.
func (h *host) serve(before ...string) (*daemon, error) {
	d := &daemon{}
	args := append(before, "serve", "--socket-path", h.socket, "--blk-file", h.device, "--queues", strconv.Itoa(queues))
	if h.zones != "" {
		args = append(args, "--zones", h.zones)
	}
	args = append(args, h.options...)
	d.cmd = exec.Command(h.zvhost, args...)
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	for range 6000 {
		if c, err := net.Dial("unix", h.socket); err == nil {
			return d, c.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("zvhost does not listen: %w", d.end(unix.SIGKILL))
}

// end sends it a signal and waits until nothing of it runs any more.
func (d *daemon) end(s unix.Signal) error {
	if err := d.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("zvhost left by itself: %w\n%s", d.cmd.Wait(), d.log.String())
	}
	if err := d.cmd.Wait(); err != nil && s != unix.SIGKILL {
		return fmt.Errorf("zvhost ended with %w\n%s", err, d.log.String())
	}
	return nil
}

// connect opens the disk that is served, for requests of up to so many bytes.
func (h *host) connect(most int) (*frontend.Disk, error) {
	c, err := frontend.Dial(h.socket)
	if err != nil {
		return nil, err
	}
	return frontend.Open(c, frontend.Options{Queues: queues, Depth: depth + 1, BufferBytes: most, QueueSize: 128})
}
