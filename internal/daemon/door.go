package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/sirupsen/logrus"

	"github.com/zvhost/zvhost/internal/logging"
	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/virtio/transport"
)

// A door is how a driver reaches the device. It is open: run or giveUp must be called.
type door interface {
	// where names it in the log.
	where() string
	// run serves the device until ctx ends or there is nothing more to serve.
	run(ctx context.Context) error
	// giveUp closes it before it has served.
	giveUp() error
}

// openDoor opens the door that c names.
func openDoor(c *Config, h *passedOn, dev transport.Device, log *logrus.Logger) (door, error) {
	if c.VDUSE != "" {
		d, err := openVDUSE(c, dev, log)
		if err != nil {
			return nil, err
		}
		return d, nil
	}
	f, err := openFront(c, h, log)
	if err != nil {
		return nil, err
	}
	if f.isAt(c.ControlPath) {
		err := lasting(fmt.Errorf("--control-path=%s is where front-ends connect, too: they are two sockets, so give another path", c.ControlPath))
		return nil, errors.Join(err, f.giveUp(h.store))
	}
	s := &server{dev: dev, log: log, trace: c.Trace, handOver: handOver, store: h.store, stored: h.stored.Of(sessionPrefix), lines: logging.NewLines(log)}
	if c.VFIOUser != "" {
		if err := s.openFunction(); err != nil {
			return nil, errors.Join(err, f.giveUp(h.store))
		}
	}
	return &socketDoor{s: s, f: f}, nil
}

// A socketDoor serves the device on a socket, to one front-end after the other: over vhost-user,
// or as a PCI function over vfio-user.
type socketDoor struct {
	s *server
	f *front
}

func (d *socketDoor) where() string { return d.f.where }

func (d *socketDoor) run(ctx context.Context) error {
	defer d.s.closeFunction()
	return d.s.run(ctx, d.f)
}

func (d *socketDoor) giveUp() error {
	defer d.s.closeFunction()
	return d.f.giveUp(d.s.store)
}

// A session serves one front-end.
type session interface {
	// Run returns when the front-end has left, and all that it has set up is released.
	Run() error
	// Close ends Run. Suspend ends it and leaves the session to the next process.
	Close()
	Suspend()
	Presence() vhostuser.Presence
	// GiveUp drops requests of a dead front-end that have not begun. Supersede ends its session
	// for the next front-end.
	GiveUp()
	Supersede()
}

func (s *server) newSession(conn *net.UnixConn, who string) (session, error) {
	if s.function != nil {
		return s.newVFIOSession(conn, who)
	}
	return vhostuser.NewSession(conn, s.dev, s.options(who)), nil
}
