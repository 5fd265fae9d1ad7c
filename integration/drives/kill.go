package main

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/frontend"
)

// kill kills the daemon under load, starts it again, and looks for all that was
// answered.
func (h *host) kill() (string, error) {
	var id uint64
	answers, writes := 0, 0
	for range h.rounds {
		l, n, err := h.killOnce(id)
		if err != nil {
			return "", err
		}
		id = l.id
		answers, writes = answers+l.answers, writes+n
	}
	return fmt.Sprintf("%d kills after %d answers: %d answered writes read back, and the reports agree", h.rounds, answers, writes), nil
}

func (h *host) killOnce(id uint64) (l *load, writes int, err error) {
	d, err := h.serve()
	if err != nil {
		return nil, 0, err
	}
	disk, err := h.connect(bufferBytes)
	if err != nil {
		return nil, 0, errors.Join(err, d.End(unix.SIGKILL))
	}
	l, err = newLoad(disk, h.rng, id)
	if err == nil {
		err = l.run(100 + h.rng.IntN(400))
	}
	if err = errors.Join(err, d.End(unix.SIGKILL)); err == nil {
		_, err = l.collect() // what it has answered last
	}
	if errors.Is(err, frontend.ErrGone) {
		err = nil
	}
	if err = errors.Join(err, disk.Abandon()); err != nil {
		return nil, 0, err
	}
	if d, err = h.serve(); err != nil {
		return nil, 0, err
	}
	if disk, err = h.connect(bufferBytes); err != nil {
		return nil, 0, errors.Join(err, d.End(unix.SIGKILL))
	}
	zones, err := h.agree(disk)
	if err == nil {
		writes, err = l.verify(disk, zones, nil)
	}
	return l, writes, errors.Join(err, disk.Close(), d.End(unix.SIGTERM))
}
