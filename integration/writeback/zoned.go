package main

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// The image: zone 0 is conventional, zone 2 may be reset meanwhile, and zone 3 has the
// data that is lost.
const (
	zoneSectors  = 8 << 20 / sectorBytes
	zones        = 8
	otherZone    = 2
	lossyZone    = 3
	blockBytes   = 4096
	blockSectors = blockBytes / sectorBytes
	lostBytes    = 1 << 20
)

// A zonedTrial is a zoned image, and the daemon that serves it.
type zonedTrial struct {
	h      *host
	image  string
	daemon *rig.Daemon
	disk   *frontend.Disk
	stable bool // the write to the conventional zone was answered with success
}

// zonedTrials: what comes between the loss and the flush.
func zonedTrials() (all []trial) {
	for _, t := range []struct {
		name string
		lost bool
		then func(t *zonedTrial) error
	}{
		{"zoned image, nothing is lost", false, func(*zonedTrial) error { return nil }},
		{"zoned image", true, func(*zonedTrial) error { return nil }},
		{"zoned image, a reset comes first", true, (*zonedTrial).reset},
		{"zoned image, a stable write to a conventional zone comes first", true, (*zonedTrial).conventional},
		{"zoned image, another session comes first", true, (*zonedTrial).session},
		{"zoned image, the daemon is killed", true, (*zonedTrial).kill},
		{"zoned image, the daemon is stopped", true, (*zonedTrial).stop},
	} {
		all = append(all, trial{t.name, func(h *host, name string) (string, error) { return h.zoned(name, t.lost, t.then) }})
	}
	return all
}

// zoned loses what is in zone 3 behind its first block, or nothing; then has a flush
// speak of it, and the next daemon.
func (h *host) zoned(name string, lost bool, then func(*zonedTrial) error) (said string, err error) {
	t := &zonedTrial{h: h, image: h.onDisk(fmt.Sprintf("%x.zvh", name))}
	defer func() {
		if t.daemon != nil {
			err = errors.Join(err, t.daemon.End(unix.SIGKILL))
		}
		if t.disk != nil {
			err = errors.Join(err, t.disk.Abandon())
		}
	}()
	if err := t.create(); err != nil {
		return "", err
	}
	w, err := newWitness(t.image)
	if err != nil {
		return "", err
	}
	defer w.close()
	if lost {
		if err := h.fill(); err != nil {
			return "", err
		}
	}
	q := t.disk.Queue(0)
	data := pattern('d', lostBytes)
	for at := 0; at < lostBytes; at += bufferBytes {
		if err := q.Write(data[at:at+bufferBytes], lossyZone*zoneSectors+blockSectors+uint64(at/sectorBytes)); err != nil {
			return "", err
		}
	}
	unix.Sync() // what the kernel's flusher thread does when it likes
	if lost {
		if err := h.free(); err != nil {
			return "", err
		}
	}
	if err := then(t); err != nil {
		return "", err
	}
	shown, err := t.written()
	if err != nil {
		return "", err
	}
	flushFailed, err := failed(t.disk.Queue(0).Flush())
	if err != nil {
		return "", err
	}
	if err := t.leave(lost); err != nil {
		return "", err
	}
	if err := w.end(lost); err != nil {
		return "", err
	}
	if err := t.start(); err != nil {
		return "", err
	}
	found, err := t.written()
	if err != nil {
		return "", err
	}
	if err := t.judge(data, lost, flushFailed, shown, found); err != nil {
		return "", err
	}
	if err := t.goOn(found); err != nil {
		return "", err
	}
	said = fmt.Sprintf("a flush of %d KiB in the zone %s, and the next daemon has %d KiB", shown/2, outcome(flushFailed), found/2)
	return said, t.leave(false)
}

func outcome(failed bool) string {
	if failed {
		return "fails"
	}
	return "succeeds"
}

// create makes the image and serves it. All zones have a block, flushed.
func (t *zonedTrial) create() (err error) {
	if _, err := rig.Run(t.h.zvhost, "create", t.image, "--size", fmt.Sprint(zones*zoneSectors*sectorBytes),
		"--zone-size", fmt.Sprint(zoneSectors*sectorBytes), "--conventional", "1"); err != nil {
		return err
	}
	if t.daemon, err = t.h.serve(t.image); err != nil {
		return err
	}
	if t.disk, err = t.h.connect(); err != nil {
		return err
	}
	q := t.disk.Queue(0)
	for i := range uint64(zones) {
		if err := q.Write(pattern('o', blockBytes), i*zoneSectors); err != nil {
			return err
		}
	}
	return q.Flush()
}

// leave ends the session, then the daemon.
func (t *zonedTrial) leave(lost bool) error {
	disk, daemon := t.disk, t.daemon
	t.disk, t.daemon = nil, nil
	return errors.Join(disk.Close(), end(daemon, lost))
}

// written is how many sectors of zone 3 are below its write pointer.
func (t *zonedTrial) written() (uint64, error) {
	z, err := t.disk.Queue(0).Report(lossyZone*zoneSectors, 1)
	if err != nil || len(z) != 1 {
		return 0, errors.Join(errors.New("there is no report of zone 3"), err)
	}
	return z[0].WP - z[0].Start, nil
}

// judge looks at what the next daemon has found.
func (t *zonedTrial) judge(data []byte, lost, flushFailed bool, shown, found uint64) error {
	const all = blockSectors + lostBytes/sectorBytes
	switch {
	case !lost && (flushFailed || shown != all || found != all):
		return fmt.Errorf("%w: nothing is lost, a flush of %d KiB %s, and the next daemon has %d of %d KiB", errFound, shown/2, outcome(flushFailed), found/2, all/2)
	case !flushFailed && found < shown:
		return fmt.Errorf("%w: a flush of %d KiB in the zone succeeds, and the next daemon has %d KiB", errFound, shown/2, found/2)
	}
	q := t.disk.Queue(0)
	got := make([]byte, blockBytes)
	for i := range uint64(zones) {
		if i == otherZone {
			continue // it may have been reset
		}
		if err := q.Read(got, i*zoneSectors); err != nil {
			return err
		}
		if !bytes.Equal(got, pattern('o', blockBytes)) {
			return fmt.Errorf("%w: zone %d has lost what was flushed before anything was wrong", errFound, i)
		}
	}
	if t.stable {
		if err := q.Read(got, blockSectors); err != nil {
			return err
		}
		if !bytes.Equal(got, pattern('s', blockBytes)) {
			return fmt.Errorf("%w: a stable write succeeded, and its data is gone", errFound)
		}
	}
	for at := uint64(blockSectors); at < found; at += blockSectors {
		if err := q.Read(got, lossyZone*zoneSectors+at); err != nil {
			return err
		}
		if !bytes.Equal(got, data[(at-blockSectors)*sectorBytes:][:blockBytes]) {
			return fmt.Errorf("%w: a flush %s, the next daemon has %d KiB in the zone, and what was written at %d is gone", errFound, outcome(flushFailed), found/2, at/2)
		}
	}
	return nil
}

// goOn writes where the zone ends, and flushes.
func (t *zonedTrial) goOn(found uint64) error {
	q := t.disk.Queue(0)
	if err := q.Write(pattern('n', blockBytes), lossyZone*zoneSectors+found); err != nil {
		return fmt.Errorf("%w: the zone does not go on: %w", errFound, err)
	}
	if err := q.Flush(); err != nil {
		return fmt.Errorf("%w: there is no flush after a new start: %w", errFound, err)
	}
	return nil
}

// reset resets another zone and waits for that to be committed, as a write there
// does. That is told of the loss, perhaps.
func (t *zonedTrial) reset() error {
	q := t.disk.Queue(0)
	if err := q.Zone(driver.TypeZoneReset, otherZone*zoneSectors); err != nil {
		return err
	}
	_, err := failed(q.Write(pattern('r', blockBytes), otherZone*zoneSectors))
	return err
}

// conventional writes through.
func (t *zonedTrial) conventional() error {
	if err := through(t.disk, true); err != nil {
		return err
	}
	f, err := failed(t.disk.Queue(0).Write(pattern('s', blockBytes), blockSectors))
	t.stable = err == nil && !f
	return errors.Join(err, through(t.disk, false))
}

// session leaves and comes again, which the image notes. A session may be refused
// for what that was told of.
func (t *zonedTrial) session() (err error) {
	if err := t.disk.Close(); err != nil {
		return err
	}
	t.disk = nil
	for range 3 {
		t.disk, err = t.h.connect()
		if !errors.Is(err, frontend.ErrGone) && !errors.As(err, new(frontend.RefusedError)) {
			return err
		}
	}
	return err
}

// kill kills the daemon and starts another one.
func (t *zonedTrial) kill() (err error) {
	d := t.daemon
	t.daemon = nil
	if err := errors.Join(d.End(unix.SIGKILL), t.disk.Abandon()); err != nil {
		return err
	}
	t.disk = nil
	return t.start()
}

// stop ends the daemon and starts another one.
func (t *zonedTrial) stop() error {
	if err := t.leave(true); err != nil {
		return err
	}
	return t.start()
}

func (t *zonedTrial) start() (err error) {
	if t.daemon, err = t.h.serveAgain(t.image); err != nil {
		return err
	}
	t.disk, err = t.h.connect()
	return err
}
