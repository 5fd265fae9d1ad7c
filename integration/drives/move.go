package main

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/vhostuser/frontend"
)

// move has a load go to and fro between two daemons of the drive, as a machine does
// that moves to another host: every request is answered with OK, by the one or the
// other, and each zone is written exactly as far as the requests for it say.
func (h *host) move() (said string, err error) {
	var daemons [2]*rig.Daemon
	sides := [2]host{*h, *h}
	sides[1].socket, sides[1].options = h.socket+".incoming", []string{"--incoming"}
	for i := range sides {
		if daemons[i], err = sides[i].serve(); err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, daemons[i].End(unix.SIGTERM)) }()
	}
	disk, err := h.connect(bufferBytes)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, disk.Abandon()) }()
	l, err := newLoad(disk, h.rng, 0)
	if err != nil {
		return "", err
	}
	l.allow = func(*zone, byte) bool { return false }
	for round := range h.rounds {
		if err := l.run(1 + h.rng.IntN(300)); err != nil {
			return "", err
		}
		if err := moveTo(disk, sides[(round+1)%2].socket); err != nil {
			return "", fmt.Errorf("move %d: %w", round, err)
		}
	}
	return h.unnoticed(l, "moves between two daemons")
}

// moveTo stops the queues, with what is in flight, and starts them at the daemon that
// listens on socket.
func moveTo(disk *frontend.Disk, socket string) error {
	log, err := disk.StartLog()
	if err != nil {
		return err
	}
	defer func() { _ = log.Free() }()
	var bases []uint32
	for i := range queues {
		base, err := disk.Queue(i).Stop()
		if err != nil {
			return err
		}
		bases = append(bases, base)
	}
	c, err := frontend.Dial(socket)
	if err != nil {
		return err
	}
	left, err := disk.Move(c, bases)
	if err != nil {
		return errors.Join(err, c.Close())
	}
	return left.Close()
}
