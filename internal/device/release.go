package device

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/disk"
)

// acquirePatience is how long queues that start wait for a disk that another daemon
// still has: the one that the guest comes from stores what it has been given.
const acquirePatience = 10 * time.Second

// custody is about a disk that a guest takes along to another daemon and back. It
// is away while its queues may run there: nothing of it is open here then, and the
// device has what backend.Look returns in its place.
//
// The session's goroutine changes the device's disk, while no queue is started, and
// holds mu. Whoever else wants to use the disk holds mu for reading.
type custody struct {
	mu sync.RWMutex
	// open opens the disk anew; nil for one that is never let go of.
	open func() (disk.Disk, error)
	look func() (disk.Disk, error) // and this looks at it meanwhile
	// note tells whoever comes after this process whether the disk is away.
	note     func(detached bool)
	patience time.Duration

	detached bool // released, or not yet acquired
	tried    bool // queues have waited in vain: another one does not wait again
	logged   int  // lines of this session in the log
}

// maxMoves is how many times a session may say where its disk goes: a front-end must
// not be able to fill the log.
const maxMoves = 10

// logMove logs where the disk goes.
func (d *Device) logMove(format string, args ...any) {
	if d.custody.logged++; d.custody.logged > maxMoves {
		d.log.Debugf(format, args...)
		return
	}
	d.lines.Logf(logrus.InfoLevel, format, args...)
}

// Release implements transport.Device.
func (d *Device) Release() error {
	c := &d.custody
	if c.open == nil || c.detached {
		return nil
	}
	d.recovery.GiveUp() // what was in flight in a ring that is not started again here
	// The front-end waits for the answer to a message, and so does its guest.
	late := time.AfterFunc(d.patience, func() {
		d.log.Warnf("the guest is about to go on elsewhere, and the disk has not stored for %v what it was given: the session waits for it; look after the disk", d.patience)
	})
	defer late.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	// Noted first: a process after this one that finds rings to be started takes it
	// again, but one that does not must leave it alone.
	c.note(true)
	gone, err := backend.LetGo(d.disk)
	if gone == d.disk {
		c.note(false)
		return fmt.Errorf("the disk is not released, for it cannot store what it was given: %w", err)
	}
	d.swap(gone)
	c.detached = true
	d.recovery.Released()
	if err != nil {
		return fmt.Errorf("releasing the disk: %w", err)
	}
	d.logMove("the guest is about to go on elsewhere: the disk is released, and acquired again when queues start here")
	return nil
}

// acquire opens the disk again where it was released, before a queue starts. An error is
// why it cannot: another daemon has it, or it is another disk.
func (d *Device) acquire() error {
	c := &d.custody
	if !c.detached {
		return nil
	}
	was := d.disk.Info()
	disk, err := d.await()
	if err != nil {
		return err
	}
	now := disk.Info()
	if err := sameDisk(was, now); err != nil {
		return errors.Join(err, disk.Close())
	}
	c.mu.Lock()
	d.swap(disk)
	c.detached, c.tried = false, false
	d.recovery.Opened(disk)
	c.mu.Unlock()
	c.note(false)
	d.logMove("the disk is acquired: queues start here")
	if c.logged <= maxMoves {
		WarnOfFaults(d.log, disk)
	}
	d.recovery.AdoptPostponed()
	if now.CapacitySectors != was.CapacitySectors {
		d.watch.notify()
	}
	return nil
}

// LoadState implements transport.Device.
func (d *Device) LoadState(state []byte) error {
	if d.custody.detached { // it may have grown since it was looked at
		if err := d.lookAgain(); err != nil {
			return err
		}
	}
	err := d.Blk.LoadState(state)
	d.noteCache()
	return err
}

// lookAgain brings what is known of a disk that is away up to date.
func (d *Device) lookAgain() error {
	c, was := &d.custody, d.disk.Info()
	disk, err := c.look()
	if err != nil {
		return err
	}
	if err := sameDisk(was, disk.Info()); err != nil {
		return err
	}
	c.mu.Lock()
	d.swap(disk)
	c.mu.Unlock()
	if disk.Info().CapacitySectors != was.CapacitySectors {
		d.watch.notify()
	}
	return nil
}

// swap puts disk in the place of the one that the device has.
func (d *Device) swap(disk disk.Disk) {
	d.disk = disk
	d.recovery.SetDisk(disk)
	d.SetDisk(disk)
}

// await opens the disk, once nobody else has it.
func (d *Device) await() (disk.Disk, error) {
	c := &d.custody
	end := time.Now().Add(c.patience)
	for told := false; ; told = true {
		opened, err := c.open()
		switch {
		case !disk.IsInUse(err):
			return opened, err
		case c.tried || time.Now().After(end):
			c.tried = true
			return nil, fmt.Errorf("%w: queues are to start here, while the zvhost that has the disk has not let go of it; what the guest has asked for stays in its queues", err)
		case !told:
			d.logMove("%v: waiting up to %v for it", err, c.patience)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// sameDisk says what keeps a disk from being the one that the guest was shown. It
// may have grown.
func sameDisk(was, now disk.Info) error {
	grown := was
	if was.Zoned == nil && now.CapacitySectors > was.CapacitySectors {
		grown.CapacitySectors = now.CapacitySectors
	}
	zoned := was.Zoned == nil && now.Zoned == nil || was.Zoned != nil && now.Zoned != nil && *was.Zoned == *now.Zoned
	grown.Zoned, now.Zoned = nil, nil
	grown.DiscardGranularity = now.DiscardGranularity // advice, of the host's file system
	if !zoned || grown != now {
		return errors.New("the disk is not the one that the guest was shown: its size, zones or limits differ")
	}
	return nil
}

// Borrow lends the disk to who is no queue: it is not let go of until done is
// called.
func (d *Device) Borrow() (disk disk.Disk, done func()) {
	d.custody.mu.RLock()
	return d.disk, d.custody.mu.RUnlock
}
