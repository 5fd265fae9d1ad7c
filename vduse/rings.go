package vduse

import (
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/virtio/transport"
)

// A ring is one queue of a session.
type ring struct {
	running bool // the device has it
	ours    bool // it goes on where this session, or the one before, has stopped it
	kick    int  // eventfd; -1: none
	call    *interrupts
}

// packedStart is where a packed ring begins (virtio, "Driver and Device Ring Wrap Counters").
const packedStart = 0x8000_8000

func (s *Session) packed() bool { return s.state.Features&featureRingPacked != 0 }

// start is where a ring begins that was not used.
func (s *Session) start() uint32 {
	if s.packed() {
		return packedStart
	}
	return 0
}

// startAll starts the rings that the driver has made ready, when it has set DRIVER_OK: all in a
// new life, or, in the first session of a process, in the life that the process before has left.
func (s *Session) startAll() error {
	infos := make([]QueueInfo, len(s.rings))
	for i := range s.rings {
		q, err := s.kernel.Queue(i)
		if err != nil {
			return fmt.Errorf("queue %d: what its driver has set up: %w", i, err)
		}
		if infos[i] = q; !q.Ready {
			continue
		}
		if err := s.find(i, &q); err != nil {
			return err
		}
		switch g := &s.rings[i]; {
		case s.resumed:
			g.ours = true
		case !g.ours:
			s.state.Bases[i] = q.State.base(s.packed())
		}
	}
	if s.resumed {
		s.dev.Adopt(s.store.record)
	} else {
		s.state.Life++
	}
	for i := range s.rings {
		if infos[i].Ready {
			s.dev.BeginRing(!s.rings[i].ours && s.state.Bases[i] != s.start())
		}
	}
	// Until a ring has started, the record is of another life.
	if err := s.save(); err != nil {
		return err
	}
	for i := range s.rings {
		if infos[i].Ready {
			if err := s.startRing(i, &infos[i]); err != nil {
				return fmt.Errorf("queue %d does not start: %w", i, err)
			}
		}
	}
	if s.resumed {
		s.resumed = false
		s.dev.Serve()
	}
	return nil
}

// find has the memory of ring i mapped, and checks what its driver has set up.
func (s *Session) find(i int, q *QueueInfo) error {
	if q.Size < 1 || q.Size > uint32(s.state.Size) || !s.packed() && bits.OnesCount32(q.Size) != 1 {
		return fmt.Errorf("queue %d: its driver has given it %d descriptors: 1 to %d are possible, and in a split ring a power of two", i, q.Size, s.state.Size)
	}
	for _, addr := range [...]uint64{q.Desc, q.Driver, q.DeviceArea} {
		if s.memory.has(addr, addr) {
			continue
		}
		if _, err := s.memory.find(addr); err != nil {
			return fmt.Errorf("queue %d: %w", i, err)
		}
	}
	return nil
}

// startRing starts ring i, of which everything is there.
func (s *Session) startRing(i int, q *QueueInfo) error {
	mem, err := s.memory.get()
	if err != nil {
		return err
	}
	g := &s.rings[i]
	r := transport.Ring{
		Size: uint16(q.Size), Desc: q.Desc, Avail: q.Driver, Used: q.DeviceArea, Base: s.state.Bases[i],
		Features: s.state.Features, Mem: mem, Err: -1, LogCall: -1,
		Record: s.store.record.Ring(i), Life: s.state.Life, Records: s.store.record, Held: s.resumed,
	}
	if err := r.Check(); err != nil {
		return err
	}
	if err := s.connect(i); err != nil {
		return errors.Join(err, s.disconnect(i))
	}
	r.Kick, r.Call = g.kick, g.call.fd
	if err := s.dev.StartQueue(i, r); err != nil {
		return errors.Join(err, s.disconnect(i))
	}
	g.running = true
	return nil
}

// connect makes the descriptors of ring i. The kernel gets the one for kicks before the ring
// starts, so that what comes later than the worker's first look is notified.
func (s *Session) connect(i int) error {
	g := &s.rings[i]
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return err
	}
	g.kick = fd
	if g.call, err = newInterrupts(s.kernel, i, func(err error) {
		s.opt.Log(LevelWarn, "queue %d: notifying the driver: %v", i, err)
	}); err != nil {
		return err
	}
	return s.kernel.SetKick(i, fd)
}

// disconnect closes the descriptors of ring i, which does not run.
func (s *Session) disconnect(i int) error {
	g := &s.rings[i]
	var err error
	if g.kick >= 0 {
		// The kernel has dropped it by itself where the device was reset.
		_ = s.kernel.SetKick(i, -1)
		err = unix.Close(g.kick)
	}
	if g.call != nil {
		err = errors.Join(err, g.call.close(s.kernel, i))
	}
	g.kick, g.call = -1, nil
	return err
}

// stop stops ring i, if it runs, once all requests that were taken from it are answered.
func (s *Session) stop(i int) (ran bool) {
	g := &s.rings[i]
	if !g.running {
		return false
	}
	s.state.Bases[i] = s.dev.StopQueue(i, s.doing)
	g.running, g.ours = false, true
	if err := s.disconnect(i); err != nil {
		s.opt.Log(LevelWarn, "queue %d: %v", i, err)
	}
	return true
}

// stopAll stops all rings, and says whether one ran.
func (s *Session) stopAll() (ran bool) {
	for i := range s.rings { // the kernel waits for 30 s, for all of them
		if s.rings[i].running {
			s.dev.BeginStop(i)
		}
	}
	for i := range s.rings {
		ran = s.stop(i) || ran
	}
	if ran {
		s.state.Life++ // nothing is in flight: the record means nothing any more
	}
	return ran
}

// queueState is GET_VQ_STATE: where a ring goes on. All requests that were taken from it are
// answered then.
func (s *Session) queueState(queue uint32) (VQState, error) {
	if queue >= uint32(len(s.rings)) {
		return VQState{}, fmt.Errorf("there are %d queues", len(s.rings))
	}
	if s.stopAll() {
		if err := s.startAll(); err != nil {
			return VQState{}, err
		}
	}
	return stateOf(s.state.Bases[queue], s.packed()), nil
}

// updateMemory is UPDATE_IOTLB: what was mapped between two addresses is not the driver's any
// more, or it is something else. Rings stop meanwhile.
func (s *Session) updateMemory(start, last uint64) error {
	if start > last {
		return errors.New("the range ends before it begins")
	}
	if !s.memory.has(start, last) && !s.waits {
		return nil
	}
	ran := s.stopAll() || s.waits
	if err := s.memory.drop(start, last); err != nil {
		return err
	}
	if !ran {
		return nil
	}
	// A ring without memory is no error: the driver may be about to give it other memory.
	if err := s.startAll(); err != nil {
		s.stopAll()
		s.waits = true
		s.opt.Log(LevelWarn, "%v; the queues wait for other memory", err)
		return nil
	}
	s.waits = false
	return nil
}
