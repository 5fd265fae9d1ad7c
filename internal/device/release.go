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

// acquirePatience is how long queues that start wait for a disk that another daemon still
// has open: the guest's former daemon syncs it before it releases it.
const acquirePatience = 10 * time.Second

// custody is about a disk that the device releases when the guest moves to another daemon,
// and acquires when it arrives. While it is detached, the guest's queues may run at the other
// daemon: this one has nothing of it open, and the device has a placeholder (backend.Look).
//
// The session's goroutine changes the device's disk, while no queue is started, and holds
// mu. Any other goroutine that uses the disk holds mu for reading.
type custody struct {
	mu sync.RWMutex
	// open opens the disk again; nil for one that is never released.
	open func() (disk.Disk, error)
	look func() (disk.Disk, error) // reads its properties while it is detached
	// note stores for the next process whether the disk is detached.
	note     func(detached bool)
	patience time.Duration

	detached bool // released, or not yet acquired
	tried    bool // queues have waited in vain: others do not wait again
	logged   int  // lines of this session in the log
}

// maxMoves is how many times a session logs releases and acquisitions of its disk: a
// front-end must not be able to fill the log.
const maxMoves = 10

// logMove logs a release or an acquisition of the disk, or a change of its cache mode.
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
		d.log.Warnf("the guest is about to continue elsewhere, and the disk has not stored its writes for %v: the session waits for it; look after the disk", d.patience)
	})
	defer late.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	// Noted first: the next process acquires the disk again if it finds rings to be started,
	// and must not open it otherwise.
	c.note(true)
	placeholder, err := backend.LetGo(d.disk)
	if placeholder == d.disk {
		c.note(false)
		return fmt.Errorf("the disk is not released, for it cannot store its writes: %w", err)
	}
	d.swap(placeholder)
	c.detached = true
	d.recovery.Released()
	if err != nil {
		return fmt.Errorf("releasing the disk: %w", err)
	}
	d.logMove("the guest is about to continue elsewhere: the disk is released, and acquired again when queues start here")
	return nil
}

// acquire opens the disk, if it is detached, before a queue starts. An error is the reason
// why it cannot: another daemon has it open, or it is another disk.
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
	if d.custody.detached { // it may have grown since
		if err := d.lookAgain(); err != nil {
			return err
		}
	}
	err := d.Blk.LoadState(state)
	d.noteCache()
	return err
}

// lookAgain reads the properties of a detached disk again.
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

// swap replaces the device's disk by disk.
func (d *Device) swap(disk disk.Disk) {
	d.disk = disk
	d.recovery.SetDisk(disk)
	d.SetDisk(disk)
}

// await opens the disk, once no other process has it open.
func (d *Device) await() (disk.Disk, error) {
	c := &d.custody
	end := time.Now().Add(c.patience)
	for logged := false; ; logged = true {
		opened, err := c.open()
		switch {
		case !disk.IsInUse(err):
			return opened, err
		case c.tried || time.Now().After(end):
			c.tried = true
			return nil, fmt.Errorf("%w: queues are to start here, while the zvhost that has the disk has not released it; the requests of the guest stay in its queues", err)
		case !logged:
			d.logMove("%v: waiting up to %v for it", err, c.patience)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// sameDisk returns an error if the disk is not the one that the guest was shown. It may have
// grown.
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

// Borrow lends the disk to a goroutine other than a queue's: it is not released until done
// is called.
func (d *Device) Borrow() (disk disk.Disk, done func()) {
	d.custody.mu.RLock()
	return d.disk, d.custody.mu.RUnlock
}
