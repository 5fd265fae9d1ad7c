package device

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/internal/failpoint"
	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/internal/logging"
	"github.com/zvhost/zvhost/internal/recovery"
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/transport"
)

// Options are what a device has beside its disk.
type Options struct {
	Queues int    // request queues, 1 to transport.MaxQueues
	Serial string // at most 20 bytes: the answer to GET_ID
	// SplitRings withholds the feature of packed rings.
	SplitRings bool
	// PollMax is how long queues look for more before they sleep, at most.
	PollMax time.Duration
	Engine  engine.Kind // what queues do their I/O with; empty: threads
	// OrThreads is for an engine that the operator did not choose: if the kernel has none
	// left for a queue, the queue uses threads.
	OrThreads bool
	Log       logrus.FieldLogger

	// Open opens the disk again once the device has released it, and Look reads its
	// properties meanwhile (backend.Look); nil for a device that never releases it. Detached:
	// the disk that the device is made of is Look's, and is opened when the first queue starts.
	// Note, which may be nil, is called each time that the disk is released or acquired.
	Open, Look func() (disk.Disk, error)
	Detached   bool
	Note       func(detached bool)
}

// A Device is a virtio-blk device over a disk: what a door (a vhost-user session)
// drives. Each started queue has a worker of its own; the goroutine that drives the device
// and the workers share nothing but the disk and the features.
type Device struct {
	*virtio.Blk // Features, SetFeatures, Queues, ReadConfig, WriteConfig

	disk    disk.Disk // the one of custody
	log     logrus.FieldLogger
	errs    *logging.Errors
	lines   *logging.Lines // of what front-ends bring about
	pollMax time.Duration
	// patience is how long a queue that is to stop may wait for the disk before that is
	// logged.
	patience time.Duration
	// abandoned: the front-end is dead, and requests that have not begun are dropped.
	abandoned atomic.Bool
	workers   []*worker // nil where the queue is not started
	watch     watch
	faulty    faultiness
	growing   sync.Mutex // one Grow at a time
	custody   custody

	// recovery decides what of an earlier process's requests may be carried out again.
	recovery *recovery.Policy
	noted    *inflight.Record // where the cache mode is noted, as long as the session lasts; nil: nowhere

	// engine makes what a queue does its I/O with.
	engine func(wake func()) (engine.Engine, error)
}

// New makes a device of a disk, which it does not own: the caller closes it, after Close.
// With Options.Open the one to close is Disk's.
func New(disk disk.Disk, o Options) (*Device, error) {
	blk, err := virtio.NewBlk(disk, virtio.BlkOptions{Queues: o.Queues, Serial: o.Serial, SplitRings: o.SplitRings})
	if err != nil {
		return nil, err
	}
	if o.Engine == "" {
		o.Engine = engine.KindThreads
	}
	errs, open := logging.NewErrors(o.Log), o.Engine.Open
	if o.OrThreads {
		open = orThreads(open, errs)
	}
	if o.Note == nil {
		o.Note = func(bool) {}
	}
	d := &Device{
		Blk:      blk,
		disk:     disk,
		log:      o.Log,
		errs:     errs,
		lines:    logging.NewLines(o.Log),
		pollMax:  o.PollMax,
		patience: logging.Patience,
		recovery: recovery.New(disk, o.Queues),
		workers:  make([]*worker, o.Queues),
		engine:   open,
		custody:  custody{open: o.Open, look: o.Look, note: o.Note, patience: acquirePatience, detached: o.Detached && o.Open != nil},
	}
	return d, nil
}

// Disk is the disk that the device has at the moment: a placeholder while its own one is
// detached. Only the goroutine that runs sessions may call it.
func (d *Device) Disk() disk.Disk { return d.disk }

// StartQueue implements transport.Device.
func (d *Device) StartQueue(i int, r transport.Ring) error {
	if d.workers[i] != nil {
		return fmt.Errorf("queue %d is started already", i)
	}
	if err := d.acquire(); err != nil {
		return err
	}
	defer logging.WarnLate(d.log, d.patience, fmt.Sprintf("the start of queue %d", i))()
	w := newWorker(d, i, r)
	d.noted = r.Records
	d.noteCache()
	if err := d.recovery.Start(i, &r); err != nil {
		return err
	}
	failpoint.Hit(failpoint.Begun)
	if err := w.start(); err != nil {
		return err
	}
	d.workers[i] = w
	if !r.Held {
		d.serve(i)
	}
	return nil
}

// Serve implements transport.Device.
func (d *Device) Serve() {
	for i, w := range d.workers {
		if w != nil {
			d.serve(i)
		}
	}
}

func (d *Device) serve(i int) {
	d.workers[i].goes <- struct{}{}
	d.recovery.Served(i)
}

// BeginStop implements transport.Device.
func (d *Device) BeginStop(i int) { d.workers[i].beginHalt() }

// StopQueue implements transport.Device.
func (d *Device) StopQueue(i int, why string) (base uint32) {
	w := d.workers[i]
	if w == nil {
		return 0
	}
	d.workers[i] = nil
	base = w.halt(why)
	d.recovery.Stopped(i)
	if !slices.ContainsFunc(d.workers, func(w *worker) bool { return w != nil }) {
		d.EndRings()
	}
	return base
}

// Abandon implements transport.Device.
func (d *Device) Abandon(dead bool) { d.abandoned.Store(dead) }

// Notify implements transport.Device.
func (d *Device) Notify(i int, call, err int) {
	w := d.workers[i]
	w.hold()
	defer w.notify.Unlock()
	if w.bad && err >= 0 && err != w.ring.Err {
		foreign.Signal(err)
	}
	w.ring.Call, w.ring.Err = call, err
}

// Close stops the queues that a session has left running, each once its
// requests are answered.
func (d *Device) Close() error {
	for i := range d.workers {
		d.StopQueue(i, "the end of the daemon")
	}
	d.recovery.Close()
	d.errs.Flush()
	d.lines.Flush()
	return nil
}

// failed logs a request that went wrong: failures of the disk for the operator, mistakes of
// the guest at debug level.
func (d *Device) failed(err error) {
	if errors.Is(err, disk.ErrIO) {
		d.errs.Error(err)
		return
	}
	d.log.Debugf("refused: %v", err)
}

// WarnOfFaults logs the faults that a test has asked for.
func WarnOfFaults(log logrus.FieldLogger, disk disk.Disk) {
	for _, f := range disk.Faults().List() {
		log.Warnf("fault %d: %v", f.ID, f.Fault)
	}
}
