package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/zvhost/zvhost/virtio/blkclient"
	"github.com/zvhost/zvhost/virtio/driver"
)

// Progress is the progress of a run.
type Progress struct {
	Elapsed  time.Duration
	Requests uint64 // answered since the last one
	Since    time.Duration
}

// progressEvery is the interval of progress reports.
const progressEvery = 500 * time.Millisecond

// lookEvery is how often a wait checks whether it has to end.
const lookEvery = 100 * time.Millisecond

// lastAnswers is how long a run that ends early waits for answers: a working back-end has
// answered by then. Tests change it.
var lastAnswers = time.Second

// Run measures until the time is over or ctx ends, and calls progress, if not nil,
// regularly. The first request that fails ends the run; with the error Run returns what was
// measured until then, which is valid if its Requests are not 0.
//
// The end of ctx ends every wait: those of the set-up at once, and those for answers after
// a second. The answers until then are a result; if answers are missing there is an error
// too.
func Run(ctx context.Context, c Config, progress func(Progress)) (Result, error) {
	if err := c.Validate(); err != nil {
		return Result{}, err
	}
	if c.File != "" {
		return runFile(ctx, &c, progress)
	}
	client, err := dial(&c)
	if err != nil {
		return Result{}, err
	}
	// The process id must be that of the back-end: if a service manager created the socket,
	// its process id would mislead.
	if c.ServerPID == 0 {
		if pid, err := client.PeerPID(); err == nil && pid > 1 {
			c.ServerPID = pid
		}
	}
	calm := context.AfterFunc(ctx, client.Interrupt)
	d, err := client.open(options(&c))
	if err != nil {
		calm()
		return Result{}, silent(err)
	}
	works, err := plan(&c, d)
	if !calm() && err == nil {
		err = blkclient.ErrInterrupted
	}
	if err != nil {
		return Result{}, errors.Join(err, d.Abandon())
	}
	loops := make([]looper, c.Queues)
	for i := range loops {
		loops[i] = newLoop(d.Queue(i), works[i], &c)
	}
	res, err := timed(ctx, &c, loops, client.Interrupt, progress)
	if err != nil {
		return res, errors.Join(err, d.Abandon())
	}
	closed := make(chan struct{})
	defer close(closed)
	defer context.AfterFunc(ctx, func() { unless(closed, client.Interrupt) })()
	return res, d.Close()
}

// unless waits for the last answers, and calls f if they have not arrived by then.
func unless(over <-chan struct{}, f func()) {
	t := time.NewTimer(lastAnswers)
	defer t.Stop()
	select {
	case <-over:
	case <-t.C:
		f()
	}
}

// silent adds the most likely reason to the error of a back-end that does not answer.
func silent(err error) error {
	if errors.Is(err, blkclient.ErrTimeout) || errors.Is(err, blkclient.ErrInterrupted) || errors.Is(err, blkclient.ErrGone) {
		return fmt.Errorf("%w; is another front-end, such as a virtual machine, using this disk? A back-end serves one at a time", err)
	}
	return err
}

// options are those of a disk for c.
func options(c *Config) blkclient.Options {
	o := blkclient.Options{Queues: c.Queues, QueueSize: 128, Depth: c.Depth, Packed: c.Packed, BufferBytes: max(c.BlockBytes, 4096), Timeout: c.Timeout}
	for int(o.QueueSize) < c.Depth {
		o.QueueSize *= 2
	}
	return o
}

// timed runs the loops and takes the processor time before and after. interrupt ends their
// waits; nil if they check the halt themselves.
func timed(ctx context.Context, c *Config, loops []looper, interrupt func(), progress func(Progress)) (Result, error) {
	// Allow all threads of the queues to run, and one more: the kernel distributes the
	// processors.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), c.Queues+2)))

	before, err := cpuTimes(c.ServerPID)
	if err != nil {
		return Result{}, err
	}
	server, err := watch(c.ServerPID)
	if err != nil {
		return Result{}, err
	}
	defer server.close()
	err = runAll(ctx, loops, time.Now(), c.Runtime, interrupt, progress)
	after, cerr := cpuTimes(c.ServerPID)
	gone := server.ended()
	if gone { // replaced, as under a keeper: its time until then is not known any more
		after.server = before.server
		after.client, cerr = CPUTime(0)
	}
	res := newResult(c, loops, after.client-before.client, after.server-before.server)
	res.ServerEnded = gone
	if err == nil && res.Requests == 0 && ctx.Err() != nil {
		err = fmt.Errorf("%w before the first request was answered", blkclient.ErrInterrupted)
	}
	if err = errors.Join(err, cerr); err != nil {
		res.Error = err.Error()
	}
	return res, err
}

// runAll runs the loops, each on a thread of its own. If one fails the others stop too. The
// first error is returned, since the others repeat it.
func runAll(ctx context.Context, loops []looper, start time.Time, d time.Duration, interrupt func(), progress func(Progress)) error {
	var h halt
	errs := make(chan error, len(loops))
	// stop ends sending, and limits the wait for what is in flight.
	var once sync.Once
	over := make(chan struct{})
	var watching sync.WaitGroup
	stop := func() {
		once.Do(func() {
			h.stop.Store(true)
			watching.Go(func() {
				unless(over, func() {
					h.giveUp.Store(true)
					if interrupt != nil {
						interrupt()
					}
				})
			})
		})
	}
	var all sync.WaitGroup
	for _, l := range loops {
		all.Go(func() {
			if err := l.run(start, int64(d), &h); err != nil {
				errs <- err
				stop()
			}
		})
	}
	calm := context.AfterFunc(ctx, stop)
	done := make(chan struct{})
	go func() {
		all.Wait()
		close(done)
	}()
	tell(loops, start, done, progress)
	calm()
	once.Do(func() {}) // f is not needed any more unless it has begun
	close(over)
	watching.Wait()
	close(errs)
	return <-errs
}

// tell calls progress until done.
func tell(loops []looper, start time.Time, done <-chan struct{}, progress func(Progress)) {
	if progress == nil {
		<-done
		return
	}
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for last, seen := start, uint64(0); ; {
		select {
		case <-done:
			return
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
func plan(c *Config, d *blkclient.Disk) ([]work, error) {
	if d.ConfigBytes == 0 {
		return nil, errors.New("the back-end shows no configuration space, so the size of its disk is not known")
	}
	room, why := int(d.Queue(0).Ring().Config().Size), "with the queue size that this back-end allows"
	if d.Features&driver.FeatureIndirectDesc == 0 { // three descriptors a request: header, data, status
		room, why = room/3, "without indirect descriptors, which this back-end does not offer"
	}
	if c.Depth > room {
		return nil, fmt.Errorf("--iodepth=%d: %s, at most %d fit into a queue", c.Depth, why, room)
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

// cpuTimes reads the processor time of the client and, if its process is known, of the
// server.
func cpuTimes(server int) (t cpu, err error) {
	if server != 0 {
		if t.server, err = CPUTime(server); err != nil {
			return t, err
		}
	}
	t.client, err = CPUTime(0)
	return t, err
}
