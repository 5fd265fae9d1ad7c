package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/uring"
	"github.com/zvhost/zvhost/virtio/blkclient"
)

// runFile measures a file itself.
func runFile(ctx context.Context, c *Config, progress func(Progress)) (Result, error) {
	mode := os.O_RDONLY
	if c.RW.writes() {
		mode = os.O_RDWR
	}
	if c.Direct {
		mode |= unix.O_DIRECT
	}
	f, err := openFile(c.File, mode)
	if err != nil {
		return Result{}, fmt.Errorf("--blk-file=%s: %w", c.File, err)
	}
	res, err := measureFile(ctx, c, f, progress)
	return res, errors.Join(err, f.Close())
}

// openFile opens a file or block device, without blocking: opening a named pipe would
// block.
func openFile(path string, mode int) (*os.File, error) {
	st, err := os.Stat(path)
	if err == nil && !st.Mode().IsRegular() && st.Mode().Type() != fs.ModeDevice {
		return nil, errors.New("neither a file nor a block device")
	}
	var f *os.File
	if err == nil {
		f, err = os.OpenFile(path, mode, 0)
	}
	var of *fs.PathError
	if errors.As(err, &of) {
		err = of.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("%w: see whether the name is right", err)
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("%w: run this as a user who may use it", err)
	}
	return f, err
}

func measureFile(ctx context.Context, c *Config, f *os.File, progress func(Progress)) (Result, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return Result{}, fmt.Errorf("--blk-file=%s: %w", c.File, err)
	}
	s := spread{
		bytes: c.BlockBytes, blockSectors: uint64(c.BlockBytes) / 512, random: c.RW == RandRead || c.RW == RandWrite,
		extents: []extent{{}}, blocks: uint64(size) / uint64(c.BlockBytes),
	}
	if s.blocks == 0 {
		return Result{}, fmt.Errorf("--bs: %s has %d bytes, less than one request of %d", c.File, size, c.BlockBytes)
	}
	loops := make([]looper, c.Queues)
	for i := range loops {
		loops[i] = &fileLoop{c: c, fd: int32(f.Fd()), spread: s.part(i, c.Queues)}
	}
	return timed(ctx, c, loops, nil, progress)
}

// A fileLoop is a loop whose requests go to a file, through an io_uring.
type fileLoop struct {
	tally
	c      *Config
	fd     int32
	spread *spread
	ring   *uring.Ring

	buffers  []byte
	free     []uint64 // numbers of requests, each with a buffer of its own
	issued   []int64  // by number: when, ns since start
	inFlight int
}

// run creates and uses the ring, which belongs to one thread.
func (l *fileLoop) run(start time.Time, runtimeNS int64, h *halt) (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	entries := 1
	for entries < l.c.Depth {
		entries *= 2
	}
	if l.ring, err = uring.New(entries); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.ring.Close()) }()
	if l.buffers, err = unix.Mmap(-1, 0, l.c.Depth*l.c.BlockBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE); err != nil {
		return fmt.Errorf("memory of %d bytes for the data: %w", l.c.Depth*l.c.BlockBytes, err)
	}
	defer func() {
		if l.inFlight == 0 { // otherwise the kernel may still write to them: they remain until the process ends
			err = errors.Join(err, unix.Munmap(l.buffers))
		}
	}()
	noise(l.buffers, 0)
	l.issued = make([]int64, l.c.Depth)
	for i := range l.c.Depth {
		l.free = append(l.free, uint64(i))
	}
	now := int64(time.Since(start))
	l.ended = now
	for first := true; ; first = false { // see loop.run
		if (now < runtimeNS || first) && !h.stop.Load() {
			l.stage(now)
		}
		if l.inFlight == 0 {
			return nil
		}
		if err := l.reap(); err != nil {
			return errors.Join(err, l.drain(start, h))
		}
		now = int64(time.Since(start))
		if err := l.take(now); err != nil {
			return errors.Join(err, l.drain(start, h))
		}
		if err := l.late(now, h); err != nil {
			return err
		}
	}
}

// late is why run does not wait for the requests in flight any longer, nil while it waits.
func (l *fileLoop) late(now int64, h *halt) error {
	why := blkclient.ErrInterrupted
	if !h.giveUp.Load() {
		if now-l.ended < int64(l.c.Timeout) {
			return nil
		}
		why = fmt.Errorf("%s has not answered within %v", l.c.File, l.c.Timeout)
	}
	return fmt.Errorf("waiting for %d requests in flight (%s of %s), none answered for %v: %w",
		l.inFlight, l.c.RW, l.c.File, shortly(now-l.ended), why)
}

// stage puts all free requests into the ring.
func (l *fileLoop) stage(now int64) {
	for len(l.free) > 0 {
		e := l.ring.SQE()
		if e == nil {
			return
		}
		i := l.free[len(l.free)-1]
		l.free = l.free[:len(l.free)-1]
		l.issued[i] = now
		l.inFlight++
		e.Opcode = uring.OpRead
		if l.c.RW.writes() {
			e.Opcode = uring.OpWrite
		}
		e.FD, e.Off, e.UserData = l.fd, l.spread.sector()*512, i
		e.Addr, e.Len = uint64(uintptr(unsafe.Pointer(&l.buffers[int(i)*l.c.BlockBytes]))), uint32(l.c.BlockBytes)
	}
}

// reap submits what is staged and waits for a completion, asleep or awake.
func (l *fileLoop) reap() error {
	wait := 1
	switch {
	case !l.c.Poll:
		l.sleeps++
	case l.ring.Staged() == 0 && !l.ring.Due():
		return nil // there may be completions
	default:
		wait = 0
	}
	l.kicks++
	return l.enter(wait)
}

// enter sleeps for a limited time, so that late is called regularly.
func (l *fileLoop) enter(wait int) error {
	switch err := l.ring.EnterFor(wait, lookEvery); err {
	case nil, unix.EINTR, unix.EAGAIN, unix.EBUSY, unix.ETIME:
		return nil
	default:
		return fmt.Errorf("io_uring_enter: %w", err)
	}
}

// take counts the available completions.
func (l *fileLoop) take(now int64) error {
	for {
		e, ok := l.ring.Next()
		if !ok {
			break
		}
		l.inFlight--
		if int(e.Res) != l.c.BlockBytes {
			what := fmt.Sprintf("%d bytes of %d", e.Res, l.c.BlockBytes)
			if e.Res < 0 {
				what = unix.Errno(-e.Res).Error()
			}
			return fmt.Errorf("%s of %s: %s", l.c.RW, l.c.File, what)
		}
		l.latency.add(uint64(now-l.issued[e.UserData]), 1)
		l.free = append(l.free, e.UserData)
		l.ended = now
	}
	l.answered.Store(l.latency.count)
	return nil
}

// drain waits for the requests in flight, since the kernel still writes to their buffers.
func (l *fileLoop) drain(start time.Time, h *halt) error {
	for l.inFlight > 0 {
		if err := l.enter(1); err != nil {
			return err
		}
		now := int64(time.Since(start))
		for _, ok := l.ring.Next(); ok; _, ok = l.ring.Next() {
			l.inFlight--
			l.ended = now
		}
		if err := l.late(now, h); err != nil && l.inFlight > 0 {
			return err
		}
	}
	return nil
}
