package backend

import (
	"encoding/binary"
	"fmt"
	"os"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/internal/iovec"
	"github.com/zvhost/zvhost/internal/powercut"
)

// This file is a host that may lose its power: an image's file of which it is
// known what is durable, a store and an engine over it. powercut_test.go has the
// load, powercut_model_test.go what must be there after a cut.
//
// The file itself, in memory, plays the page cache. A cut makes another file of
// what powercut.File says was left; so the image is in another place then, as
// after a reboot.

// A cutHost is one file on such a host.
type cutHost struct {
	path string
	f    *os.File // to look at it and to change it, besides the image's own
	unit uint32   // bytes of what its storage is read and written in; 0: sectors
	rec  *powercut.File
	l    *format.Layout

	// phase says what the image's owner is doing: "open", "run", "kill" or
	// "close".
	phase string
	// inCall is called in the middle of each call of the store, when it may be
	// done or not; its error is the call's. Nil: calls wait for resume.
	inCall  func() error
	waiting bool // a call waits
	resume  chan struct{}
	dead    bool // the daemon was killed
}

// openHost is a host with the file at path, which holds what rec says.
func openHost(path string, rec *powercut.File, unit uint32) (*cutHost, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	h := &cutHost{path: path, f: f, rec: rec, unit: unit, resume: make(chan struct{})}
	if h.l, err = format.ReadSuper(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	return h, nil
}

// observe tells the books what the live table is by now.
func (h *cutHost) observe() error {
	b := make([]byte, h.l.TableOff-format.LiveOff)
	if _, err := h.f.ReadAt(b, format.LiveOff); err != nil {
		return err
	}
	h.rec.Observe(format.LiveOff, b)
	return nil
}

// bounds are where the parts of the file begin.
func (h *cutHost) bounds() []int64 {
	return []int64{format.StateOff, format.SuperCopyOff, format.LiveOff, h.l.TableOff, h.l.DataOff}
}

// store is the host's: it carries everything out in the file at once, and keeps
// book of what is durable.
func (h *cutHost) begin() error {
	if h.dead {
		return errDead
	}
	return h.observe()
}

func (h *cutHost) middle() error {
	if h.inCall != nil {
		return h.inCall()
	}
	h.waiting = true
	<-h.resume
	if h.dead {
		return errDead
	}
	return nil
}

func (h *cutHost) Sync() error {
	if err := h.begin(); err != nil {
		return err
	}
	then := h.rec.Now()
	if err := h.middle(); err != nil {
		return err
	}
	h.rec.Synced(then)
	return nil
}

func (h *cutHost) WriteStable(b []byte, off int64) error {
	if err := h.begin(); err != nil {
		return err
	}
	if _, err := h.f.WriteAt(b, off); err != nil {
		return err
	}
	h.rec.Write(off, b)
	if err := h.middle(); err != nil {
		return err
	}
	h.rec.Durable(off, int64(len(b)))
	return nil
}

func (h *cutHost) Wipe(off, n int64) error {
	if err := h.begin(); err != nil {
		return err
	}
	if err := engine.PunchHoleAt(int(h.f.Fd()), off, n); err != nil {
		return err
	}
	h.rec.Zero(off, n)
	return h.middle()
}

// open opens the image. inCall is called in the middle of each step of its
// recovery.
func (h *cutHost) open(plant func(*cutHost) image.Store, inCall func() error) (*zoned, error) {
	h.phase, h.inCall, h.dead = "open", inCall, false
	d, err := openZonedOver(h.path, disk.Options{MinUnit: h.unit}, func(image.Store) image.Store {
		if plant != nil {
			return plant(h)
		}
		return h
	})
	if err == nil {
		h.phase = "run"
		err = h.observe()
	}
	h.inCall = nil
	return d, err
}

// A cutLane is a worker's lane on such a host. With hold its writes are carried
// out when the test says so; reads always at once.
type cutLane struct {
	*disk.Lane
	h        *cutHost
	hold     bool
	queued   func(*engine.Op) // is told of writes
	landed   func(*engine.Op)
	staged   []*engine.Op
	held     []heldOp
	finished []*engine.Op
}

// A heldOp is a write of which the first bytes are in the page cache.
type heldOp struct {
	op   *engine.Op
	done int64
}

func newCutLane(h *cutHost) (*cutLane, error) {
	e := &cutLane{h: h}
	var err error
	e.Lane, err = disk.NewLane(func(func()) (engine.Engine, error) { return (*cutEngine)(e), nil })
	return e, err
}

// cutEngine is the lane's engine.
type cutEngine cutLane

func (e *cutEngine) Queue(op *engine.Op) { e.staged = append(e.staged, op) }

func (e *cutEngine) Submit() {
	staged := e.staged
	e.staged = nil
	for _, op := range staged {
		if op.Code != engine.Readv && e.queued != nil {
			e.queued(op)
		}
		if op.Code != engine.Readv && e.hold && !e.h.dead {
			e.held = append(e.held, heldOp{op: op})
		} else {
			(*cutLane)(e).carryOut(heldOp{op: op}, op.Len)
			(*cutLane)(e).end(op)
		}
	}
}

func (e *cutEngine) Err() error { return nil }

func (e *cutEngine) Reap() *engine.Op {
	if len(e.finished) == 0 {
		return nil
	}
	op := e.finished[0]
	e.finished = e.finished[1:]
	return op
}

func (e *cutEngine) Wait(fds []unix.PollFd) { engine.Poll(fds) }

func (e *cutEngine) Close() error { return nil }

// carryOut does what is left of op, but not what is behind its byte number to.
func (e *cutLane) carryOut(w heldOp, to int64) {
	op := w.op
	if e.h.dead { // the file is as the daemon left it
		op.Err = unix.EIO
		return
	}
	b := iovec.Bytes(op.Iov[0]) // the tests here send one piece
	switch op.Code {
	case engine.Readv:
		_, op.Err = e.h.f.ReadAt(b[:op.Len], op.Off)
	case engine.Writev:
		if _, op.Err = e.h.f.WriteAt(b[w.done:to], op.Off+w.done); op.Err == nil {
			e.h.rec.Write(op.Off+w.done, b[w.done:to])
		}
	default: // scrubs failed writes, and none fails here
		op.Err = unix.EINVAL
	}
	op.N = to
}

// end finishes op.
func (e *cutLane) end(op *engine.Op) {
	if op.Err == nil && op.Code == engine.Writev && !e.h.dead {
		if op.Dsync {
			e.h.rec.Durable(op.Off, op.Len)
		}
		if e.landed != nil && lastPart(op) {
			e.landed(op)
		}
	}
	e.finished = append(e.finished, op)
}

// lastPart says that op is the last part of its write, which may be made in several.
func lastPart(op *engine.Op) bool {
	b := op.Owner.(*disk.Request).Bounce
	return b == nil || b.Moved+b.Part == b.Len
}

// run carries out all of the held write at index i, or with part only what is in
// front of its byte number to.
func (e *cutLane) run(i int, to int64) {
	w := &e.held[i]
	if to < w.op.Len {
		if to > w.done {
			e.carryOut(*w, to)
			w.done = to
		}
		return
	}
	e.carryOut(*w, w.op.Len)
	op := w.op
	e.held = append(e.held[:i], e.held[i+1:]...)
	e.end(op)
}

// do sends r and waits for it, the goroutines of the disk doing as they please.
func (e *cutLane) do(d disk.Disk, r *disk.Request) error {
	e.Submit(d, r)
	e.Start()
	for range 1000 {
		if got := e.Done(); got != nil {
			return got.Err
		}
		synctest.Wait()
	}
	return fmt.Errorf("%v at sector %d does not end", r.Op, r.Sector)
}

// A cutStamp is what stands in a sector: which sector of which request. The zero
// cutStamp is a sector of zeroes.
type cutStamp struct {
	id    uint32 // of the request, from 1, never used twice in a run
	index uint32 // sector within the request
}

// stampAll fills b with what request id writes.
func stampAll(b []byte, id uint32) {
	for i := uint32(0); len(b) > 0; i, b = i+1, b[disk.SectorSize:] {
		x := uint64(id)<<32 | uint64(i)
		for at := 0; at < disk.SectorSize; at += 8 {
			binary.LittleEndian.PutUint64(b[at:], x)
			x = (x ^ x>>29) * 0xbf58476d1ce4e5b9
		}
	}
}

// stampsOf reads the sectors of b back. Anything but zeroes and whole sectors is
// an error.
func stampsOf(b []byte) ([]cutStamp, error) {
	stamps := make([]cutStamp, len(b)/disk.SectorSize)
	var want [disk.SectorSize]byte
	for i := range stamps {
		got := b[i*disk.SectorSize:][:disk.SectorSize]
		x := binary.LittleEndian.Uint64(got)
		if x != 0 {
			y := x
			for at := 0; at < disk.SectorSize; at += 8 {
				binary.LittleEndian.PutUint64(want[at:], y)
				y = (y ^ y>>29) * 0xbf58476d1ce4e5b9
			}
			stamps[i] = cutStamp{uint32(x >> 32), uint32(x)}
		} else {
			clear(want[:])
		}
		if string(got) != string(want[:]) {
			return nil, fmt.Errorf("sector %d begins with % x and does not go on like that", i, got[:8])
		}
	}
	return stamps, nil
}
