package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// Progress is how far a run is.
type Progress struct {
	Elapsed  time.Duration
	Requests uint64 // answered since the last one
	Since    time.Duration
}

// progressEvery is how often it is told.
const progressEvery = 500 * time.Millisecond

// Run measures until the time is over or ctx ends, and tells progress, if that is
// not nil, now and then. What is measured ends with the first request that fails.
func Run(ctx context.Context, c Config, progress func(Progress)) (Result, error) {
	if err := c.Validate(); err != nil {
		return Result{}, err
	}
	if c.File != "" {
		return runFile(ctx, &c, progress)
	}
	client, err := frontend.Dial(c.SocketPath)
	if err != nil {
		return Result{}, fmt.Errorf("--socket-path=%s: %w", c.SocketPath, err)
	}
	// The pid is told where it can be: that of a service manager, which has
	// listened in the back-end's place, would mislead.
	if c.ServerPID == 0 {
		if pid, err := client.PeerPID(); err == nil && pid > 1 {
			c.ServerPID = pid
		}
	}
	d, err := frontend.Open(client, options(&c))
	if err != nil {
		return Result{}, err
	}
	res, err := measure(ctx, &c, d, progress)
	if err != nil {
		return Result{}, errors.Join(err, d.Abandon())
	}
	return res, d.Close()
}

// options are those of a front-end for c.
func options(c *Config) frontend.Options {
	o := frontend.Options{Queues: c.Queues, QueueSize: 128, Depth: c.Depth, Packed: c.Packed, BufferBytes: max(c.BlockBytes, 4096)}
	for int(o.QueueSize) < c.Depth {
		o.QueueSize *= 2
	}
	return o
}

func measure(ctx context.Context, c *Config, d *frontend.Disk, progress func(Progress)) (Result, error) {
	works, err := plan(c, d)
	if err != nil {
		return Result{}, err
	}
	loops := make([]looper, c.Queues)
	for i := range loops {
		loops[i] = newLoop(d.Queue(i), works[i], c)
	}
	return timed(ctx, c, loops, progress)
}

// timed runs the loops and takes the processor time before and after.
func timed(ctx context.Context, c *Config, loops []looper, progress func(Progress)) (Result, error) {
	// Each queue's thread may run, and somebody beside them: it is for the kernel
	// to share the processors out.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), c.Queues+2)))

	before, err := cpuTimes(c.ServerPID)
	if err != nil {
		return Result{}, err
	}
	start := time.Now()
	if err := runAll(ctx, loops, start, c.Runtime, progress); err != nil {
		return Result{}, err
	}
	after, err := cpuTimes(c.ServerPID)
	if err != nil {
		return Result{}, err
	}
	return newResult(c, loops, after.client-before.client, after.server-before.server), nil
}

// runAll runs the loops, each on a thread of its own. Where one fails the others
// stop too.
func runAll(ctx context.Context, loops []looper, start time.Time, d time.Duration, progress func(Progress)) error {
	var stop atomic.Bool
	defer context.AfterFunc(ctx, func() { stop.Store(true) })()
	errs := make([]error, len(loops))
	var all sync.WaitGroup
	for i, l := range loops {
		all.Go(func() {
			if errs[i] = l.run(start, int64(d), &stop); errs[i] != nil {
				stop.Store(true)
			}
		})
	}
	if progress == nil {
		all.Wait()
		return errors.Join(errs...)
	}
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for last, seen := start, uint64(0); ; {
		select {
		case <-done:
			return errors.Join(errs...)
		case now := <-tick.C:
			total := uint64(0)
			for _, l := range loops {
				total += l.counts().answered.Load()
			}
			progress(Progress{Elapsed: now.Sub(start), Requests: total - seen, Since: now.Sub(last)})
			last, seen = now, total
		}
	}
}

// plan gives each queue its work.
func plan(c *Config, d *frontend.Disk) ([]work, error) {
	if d.ConfigBytes == 0 {
		return nil, errors.New("the back-end shows no configuration space, so the size of its disk is not known")
	}
	// Three descriptors a request: header, data, status.
	if room := int(d.Queue(0).Ring().Config().Size) / 3; d.Features&driver.FeatureIndirectDesc == 0 && c.Depth > room {
		return nil, fmt.Errorf("--iodepth=%d: without indirect descriptors, which this back-end does not offer, at most %d fit into a queue", c.Depth, room)
	}
	conf := &d.Config
	zoned := d.Features&driver.BlkZoned != 0 && conf.ZoneModel != 0
	switch {
	case c.RW.writes() && d.Features&driver.BlkRO != 0:
		return nil, fmt.Errorf("--rw=%s: the disk is read-only", c.RW)
	case zoned && c.RW == RandWrite:
		return nil, errors.New("--rw=randwrite: the disk is zoned and takes no random writes: use append or write")
	case !zoned && (c.RW == Append || c.RW == Report):
		return nil, fmt.Errorf("--rw=%s: the disk has no zones: use an ordinary read or write", c.RW)
	case d.Features&driver.BlkBlkSize != 0 && conf.BlkSize > 512 && c.BlockBytes%int(conf.BlkSize) != 0:
		return nil, fmt.Errorf("--bs: %d bytes: must be a multiple of the disk's block size of %d", c.BlockBytes, conf.BlkSize)
	}
	works := make([]work, c.Queues)
	sectors := uint64(c.BlockBytes) / 512
	s := spread{typ: driver.TypeIn, bytes: c.BlockBytes, blockSectors: sectors, random: c.RW == RandRead || c.RW == RandWrite}
	switch {
	case c.RW == Report:
		for i := range works {
			works[i] = &reports{bytes: c.BlockBytes, zoneSectors: uint64(conf.ZoneSectors), capacity: conf.Capacity}
		}
		return works, nil
	case zoned && c.RW.writes():
		return fillers(c, d)
	case zoned:
		var err error
		if s.extents, s.blocks, err = writtenExtents(c, d); err != nil {
			return nil, err
		}
	case c.RW.writes():
		s.typ = driver.TypeOut
		fallthrough
	default:
		s.extents, s.blocks = []extent{{}}, conf.Capacity/sectors
		if s.blocks == 0 {
			return nil, fmt.Errorf("--bs: the disk has %d sectors, less than one request of %d bytes", conf.Capacity, c.BlockBytes)
		}
	}
	for i := range works {
		works[i] = s.part(i, c.Queues)
	}
	return works, nil
}

// cpu is processor time used so far.
type cpu struct{ client, server time.Duration }

// cpuTimes asks for our own and, where it is known, that of the server.
func cpuTimes(server int) (t cpu, err error) {
	if server != 0 {
		if t.server, err = CPUTime(server); err != nil {
			return t, err
		}
	}
	t.client, err = CPUTime(0)
	return t, err
}
