package device

import (
	"net"

	"github.com/zvhost/zvhost/internal/control"
)

// A controlled is a control socket of a rig's device.
type controlled struct {
	listener *net.UnixListener
	server   *control.Server
	ended    chan error
}

// control listens at path for commands to r's device.
func (r *rig) control(path string) *controlled {
	r.t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		r.t.Fatal(err)
	}
	c := &controlled{listener: l, server: control.NewServer(r.disk, func(line string) { r.dev.log.Warn(line) }), ended: make(chan error, 1)}
	c.server.Grow, c.server.Borrow = r.dev.Grow, r.dev.Borrow
	go func() { c.ended <- c.server.Serve(l) }()
	return c
}

// close ends it, once what was asked for last has been carried out.
func (c *controlled) close() {
	_ = c.listener.Close()
	c.server.Close()
	<-c.ended
}
