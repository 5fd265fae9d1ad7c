package vduse

import (
	"errors"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// interrupts passes the notifications of a ring on to the driver: from the eventfd that the
// ring's worker writes (transport.Ring.Call) to the ioctl that the kernel has for it.
type interrupts struct {
	fd     int // for the worker
	file   *os.File
	closed atomic.Bool
	done   chan struct{}
}

// retryPause is how long an interrupt waits that the kernel does not take yet.
const retryPause = time.Millisecond

// newInterrupts begins to pass on what is written to its descriptor. failed gets the first
// error that is not temporary.
func newInterrupts(k Kernel, ring int, failed func(error)) (*interrupts, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	t := &interrupts{fd: fd, file: os.NewFile(uintptr(fd), "call"), done: make(chan struct{})}
	go func() {
		defer close(t.done)
		var count [8]byte
		for {
			if _, err := t.file.Read(count[:]); err != nil {
				return // closed
			}
			if err := t.inject(k, ring); err != nil && failed != nil {
				failed(err)
				failed = nil
			}
		}
	}()
	return t, nil
}

// inject notifies the driver. The kernel refuses an interrupt until it has set DRIVER_OK, which
// it does some time after it was told that the device has taken it, and the worker may be
// faster.
func (t *interrupts) inject(k Kernel, ring int) error {
	for {
		err := k.Interrupt(ring)
		if !errors.Is(err, unix.EINVAL) || t.closed.Load() {
			return err
		}
		time.Sleep(retryPause)
	}
}

// close ends it. Nobody may write to the descriptor any more. What was written last is passed
// on: the driver waits for it.
func (t *interrupts) close(k Kernel, ring int) error {
	t.closed.Store(true)
	err := t.file.Close()
	<-t.done
	_ = k.Interrupt(ring) // one too many does no harm
	return err
}
