package blkclient

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/virtio/driver"
)

// A Request is one block request, with memory of its own in the guest. A queue allocates
// all of them in advance and reuses them.
type Request struct {
	Type   uint32 // driver.TypeIn and so on
	Sector uint64 // of 512 bytes
	// Data is the data to send, or the place for the answer, in guest memory: the first
	// bytes of Buffer, see SetLen. It may be empty.
	Data []byte
	// LinuxFooter gives a zone append the footer that Linux sends, see driver.Blk.
	LinuxFooter bool
	// Tag is for the caller.
	Tag uint64

	// The outcome, once the request has come back.
	Status       byte   // driver.StatusOK and so on
	AppendSector uint64 // of a zone append
	Written      uint32 // bytes that the device reported as written

	buf     []byte
	bufAddr uint64 // guest address
	index   uint64
	blk     driver.Blk
	table   driver.Buffer // for an indirect table
}

// Buffer is the memory of Data, in guest memory.
func (r *Request) Buffer() []byte { return r.buf }

// SetLen makes Data the first n bytes of Buffer.
func (r *Request) SetLen(n int) { r.Data = r.buf[:n] }

// A Queue is one virtqueue of a disk, with its requests. It belongs to one goroutine. A
// request allocates no memory.
type Queue struct {
	d     *Disk
	index int
	ring  *driver.Ring
	kick  *foreign.FD
	call  *foreign.FD

	requests []*Request
	free     []*Request
	inFlight int
	one      [8]byte // what an eventfd is written with
	count    [8]byte // what it is read into
	poll     [3]unix.PollFd

	// Timeout is how long Wait waits for a completion before it fails; 0 is for ever.
	Timeout time.Duration

	// Kicks and Sleeps count system calls: how often the device was woken, and
	// Wait found nothing and slept.
	Kicks, Sleeps uint64
}

// newQueue allocates queue i in guest memory, without a message to the back-end.
func newQueue(d *Disk, i int) (*Queue, error) {
	q := &Queue{d: d, index: i, one: [8]byte{1}, Timeout: d.opt.Timeout}
	for _, f := range []**foreign.FD{&q.kick, &q.call} {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("eventfd: %w", err), q.close())
		}
		*f = foreign.NewFD(fd)
	}
	if err := q.allocate(); err != nil {
		return nil, errors.Join(fmt.Errorf("queue %d: %w", i, err), q.close())
	}
	return q, nil
}

// ringAlign is the alignment that driver.NewRing needs.
const ringAlign = 64

func (q *Queue) allocate() error {
	d := q.d
	at, _, err := d.Memory.Alloc(driver.RingBytes(d.opt.QueueSize), ringAlign)
	if err != nil {
		return err
	}
	if q.ring, err = driver.NewRing(d.Memory.Memory, at, d.opt.QueueSize, d.Features); err != nil {
		return err
	}
	segments := (d.opt.BufferBytes + d.segmentBytes - 1) / d.segmentBytes
	for i := range d.opt.Depth {
		r := &Request{index: uint64(i)}
		r.blk.Data = make([]driver.Buffer, 0, segments)
		if r.bufAddr, r.buf, err = d.Memory.Alloc(uint64(d.opt.BufferBytes), 4096); err != nil {
			return err
		}
		if r.blk.Scratch, _, err = d.Memory.Alloc(driver.BlkScratchBytes, ringAlign); err != nil {
			return err
		}
		if d.Features&driver.FeatureIndirectDesc != 0 {
			n := uint64(segments+2) * 16
			if r.table.GuestAddr, _, err = d.Memory.Alloc(n, 16); err != nil {
				return err
			}
			r.table.Len = uint32(n)
		}
		q.requests = append(q.requests, r)
	}
	q.free = append(q.free, q.requests...)
	return nil
}

func (q *Queue) close() error {
	return errors.Join(q.kick.Close(), q.call.Close())
}

// Stop stops the queue in the back-end, which first answers what it has popped. Poll still
// returns those answers. Stop returns where the back-end would have continued.
func (q *Queue) Stop() (base uint32, err error) { return q.d.transport.StopQueue(q) }

// Start starts a stopped queue again, at the base that Stop returned.
func (q *Queue) Start(base uint32) error { return q.d.transport.StartQueue(q, base) }

// Ring is the driver's ring under the queue, for tests that add chains of their own; no
// request may be in flight meanwhile.
func (q *Queue) Ring() *driver.Ring { return q.ring }

// Index is which queue of the device it is.
func (q *Queue) Index() int { return q.index }

// KickFD and CallFD lend the eventfds out. A transport that has a notification of its own does not
// use the first one.
func (q *Queue) KickFD() int { return q.kick.Int() }

// CallFD lends the eventfd with which the back-end wakes this queue.
func (q *Queue) CallFD() int { return q.call.Int() }

// InFlight is how many requests are with the device or not yet polled.
func (q *Queue) InFlight() int { return q.inFlight }

// Get returns a free request with empty Data; nil if all are in use.
func (q *Queue) Get() *Request {
	n := len(q.free) - 1
	if n < 0 {
		return nil
	}
	r := q.free[n]
	q.free = q.free[:n]
	r.Data = r.buf[:0]
	return r
}

// Put returns a request that is not in flight to the queue.
func (q *Queue) Put(r *Request) { q.free = append(q.free, r) }

// Submit puts a request into the ring. The device sees it with the next Kick. It fails with
// driver.ErrFull if the ring has too few descriptors.
func (q *Queue) Submit(r *Request) error {
	b := &r.blk
	b.Type, b.Sector, b.Data, b.LinuxFooter = r.Type, r.Sector, b.Data[:0], r.LinuxFooter
	for off := 0; off < len(r.Data); off += q.d.segmentBytes {
		n := min(q.d.segmentBytes, len(r.Data)-off)
		b.Data = append(b.Data, driver.Buffer{GuestAddr: r.bufAddr + uint64(off), Len: uint32(n)})
	}
	b.Table = driver.Buffer{}
	if len(b.Data) > 0 {
		b.Table = r.table // Linux, too, has two descriptors in the ring itself
	}
	if _, err := q.ring.AddBlk(b, r.index); err != nil {
		return err
	}
	q.inFlight++
	return nil
}

// Kick shows the device everything submitted, and wakes it if it wants that.
func (q *Queue) Kick() error {
	if !q.ring.Publish() {
		return nil
	}
	return q.wake()
}

// wake kicks the device, whether it wants a kick or not.
func (q *Queue) wake() error {
	q.Kicks++
	if err := q.d.transport.Notify(q); err != nil {
		return fmt.Errorf("queue %d: kick: %w", q.index, err)
	}
	return nil
}

// SignalKick writes to the kick eventfd.
func (q *Queue) SignalKick() error {
	_, err := unix.Write(q.kick.Int(), q.one[:])
	return err
}

// Poll returns answered requests in done, at most len(done), without waiting. They are not
// in flight any more, and the caller owns them until Put.
func (q *Queue) Poll(done []*Request) (n int, err error) {
	for n < len(done) {
		u, ok := q.ring.Next()
		if !ok {
			break
		}
		r := q.requests[u.Token]
		r.Written = u.Written
		if r.Status, r.AppendSector, err = q.ring.BlkResult(&r.blk); err != nil {
			return n, fmt.Errorf("queue %d: %w", q.index, err)
		}
		q.inFlight--
		done[n] = r
		n++
	}
	if n == 0 {
		if err := q.ring.Err(); err != nil {
			return 0, fmt.Errorf("queue %d: %w", q.index, err)
		}
	}
	return n, nil
}

// Wait is Poll, but sleeps until a request is answered. It fails with ErrGone if the
// back-end disconnects, and after Timeout.
func (q *Queue) Wait(done []*Request) (int, error) {
	for {
		q.ring.DisableCalls()
		if n, err := q.Poll(done); n != 0 || err != nil {
			return n, err
		}
		if q.ring.EnableCalls() {
			continue
		}
		if err := q.sleep(); err != nil {
			return 0, err
		}
	}
}

// sleep waits for a call.
func (q *Queue) sleep() error {
	q.Sleeps++
	timeout := -1
	if q.Timeout > 0 {
		timeout = int(q.Timeout.Milliseconds())
	}
	for {
		conn, interrupt := q.d.transport.Watch()
		q.poll = [3]unix.PollFd{
			{Fd: int32(q.call.Int()), Events: unix.POLLIN},
			{Fd: int32(conn), Events: unix.POLLRDHUP},
			{Fd: int32(interrupt), Events: unix.POLLIN},
		}
		n, err := unix.Poll(q.poll[:], timeout)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("queue %d: poll: %w", q.index, err)
		case n == 0:
			return q.late()
		case q.poll[2].Revents != 0:
			return q.cut(ErrInterrupted)
		case q.poll[0].Revents != 0:
			// No other reader exists, and the count does not matter.
			_, err := unix.Read(q.call.Int(), q.count[:])
			if err != nil && err != unix.EAGAIN {
				return fmt.Errorf("queue %d: call: %w", q.index, err)
			}
			return nil
		default:
			return q.cut(ErrGone)
		}
	}
}

// late is the error of a device that has not answered for q.Timeout.
func (q *Queue) late() error {
	return fmt.Errorf("queue %d: no completion within %v, %d requests in flight: %w", q.index, q.Timeout, q.inFlight, ErrTimeout)
}

// cut is the error of a wait that ended with requests in flight.
func (q *Queue) cut(why error) error {
	return fmt.Errorf("queue %d, %d requests in flight: %w", q.index, q.inFlight, why)
}
