package main

import (
	"errors"
	"fmt"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

const (
	sectorBytes = rig.SectorBytes
	queues      = 4
	bufferBytes = 256 << 10
)

// serve starts zvhost on a file, and waits until it serves.
func (h *host) serve(file string) (*rig.Daemon, error) {
	return rig.Serve(h.zvhost, "serve", "--socket-path", h.path("s"), "--blk-file", file, "--queues", fmt.Sprint(queues))
}

// serveAgain starts zvhost as often as it takes, as systemd or a keeper would: who is
// told of lost data as it starts ends.
func (h *host) serveAgain(file string) (p *rig.Daemon, err error) {
	for range 3 {
		if p, err = h.serve(file); err == nil {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%w: it does not start again: %w", errFound, err)
}

// end ends it by SIGTERM. One that knows of lost data may say so with its status.
func end(p *rig.Daemon, lost bool) error {
	err := p.End(unix.SIGTERM)
	if lost && errors.As(err, new(*exec.ExitError)) && p.Cmd.ProcessState.Exited() {
		return nil
	}
	return err
}

func (h *host) connect() (*frontend.Disk, error) {
	return rig.Connect(h.path("s"), frontend.Options{Queues: queues, QueueSize: 64, Depth: 2, BufferBytes: bufferBytes})
}

// through has the disk write through, or back.
func through(d *frontend.Disk, on bool) error {
	value := []byte{1}
	if on {
		value[0] = 0
	}
	return d.Client.SetConfig(driver.WritebackOffset, value)
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
