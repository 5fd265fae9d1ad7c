package main

import (
	"strconv"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/vhostuser/frontend"
)

const (
	queues      = 4
	depth       = 8 // requests of the load in flight on each
	bufferBytes = 64 << 10
)

// serve starts zvhost, behind what comes before its "serve", and waits until it
// serves the drive.
func (h *host) serve(before ...string) (*rig.Daemon, error) {
	args := append(before, "serve", "--socket-path", h.socket, "--blk-file", h.device, "--queues", strconv.Itoa(queues))
	if h.zones != "" {
		args = append(args, "--zones", h.zones)
	}
	return rig.Serve(h.zvhost, append(args, h.options...)...)
}

// connect opens the disk that is served, for requests of up to so many bytes.
func (h *host) connect(most int) (*frontend.Disk, error) {
	return rig.Connect(h.socket, frontend.Options{Queues: queues, Depth: depth + 1, BufferBytes: most, QueueSize: 128})
}
