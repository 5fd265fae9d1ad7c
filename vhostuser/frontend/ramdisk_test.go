package frontend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
	"github.com/zvhost/zvhost/virtio/transport"
)

// ramDisk is a block device in memory, as small as can be: one worker per queue
// that answers one request after the other. It is written a third time from the
// specification, apart from packages virtio and driver, and only for good
// front-ends: it checks that a session keeps the rules of vhostuser.Device, and
// panics on everything else.
type ramDisk struct {
	mu       sync.Mutex
	data     []byte
	wp       []uint64 // of each zone, in sectors
	features uint64
	acked    uint64
	queues   int
	config   [driver.BlkConfigBytes]byte
	workers  map[int]*worker
	noCalls  bool // a device that never notifies
	refuse   error
}

const (
	zoneSectors = 16
	zoneCount   = 8
)

func newRAMDisk(queues int) *ramDisk {
	d := &ramDisk{
		data:     make([]byte, zoneCount*zoneSectors*512),
		wp:       make([]uint64, zoneCount),
		queues:   queues,
		features: AllFeatures &^ vhostuser.FeatureProtocol,
		workers:  make(map[int]*worker),
	}
	for i := range d.wp {
		d.wp[i] = uint64(i) * zoneSectors
	}
	binary.LittleEndian.PutUint64(d.config[0:], zoneCount*zoneSectors)
	binary.LittleEndian.PutUint32(d.config[8:], 4096) // size_max
	binary.LittleEndian.PutUint32(d.config[12:], 64)  // seg_max
	binary.LittleEndian.PutUint32(d.config[72:], zoneSectors)
	d.config[92] = 1
	return d
}

func (d *ramDisk) Queues() int      { return d.queues }
func (d *ramDisk) Features() uint64 { return d.features }

func (d *ramDisk) idle(what string) {
	if len(d.workers) != 0 {
		panic(what + " while queues run")
	}
}

func (d *ramDisk) SetFeatures(f uint64) error {
	d.idle("SetFeatures")
	d.acked = f
	return d.refuse
}

func (d *ramDisk) Adopt(*inflight.Record)       {}
func (d *ramDisk) BeginFrontEnd()               {}
func (d *ramDisk) BeginRing(bool)               {}
func (d *ramDisk) ShowQueues(int)               {}
func (d *ramDisk) Serve()                       {}
func (d *ramDisk) Abandon(bool)                 {}
func (d *ramDisk) Leave()                       {}
func (d *ramDisk) State() (is, choices uint64)  { return 0, 0 }
func (d *ramDisk) Restore(uint64, uint64) error { return nil }
func (d *ramDisk) NeedsReset() bool             { return false }

func (d *ramDisk) Reset() {
	d.idle("Reset")
	d.acked = 0
}

func (d *ramDisk) ReadConfig(dst []byte, off uint32) error {
	if int(off)+len(dst) > len(d.config) {
		return errors.New("outside the configuration space")
	}
	copy(dst, d.config[off:])
	return nil
}

func (d *ramDisk) WriteConfig(src []byte, off uint32) error {
	if int(off)+len(src) > len(d.config) {
		return errors.New("outside the configuration space")
	}
	if at := driver.WritebackOffset - int(off); at >= 0 && at < len(src) {
		d.config[driver.WritebackOffset] = src[at]
	}
	return nil
}

func (d *ramDisk) Watch(func() bool)      {}
func (d *ramDisk) SaveState() []byte      { return nil }
func (d *ramDisk) LoadState([]byte) error { return nil }

// Release implements vhostuser.Device.
func (d *ramDisk) Release() error { return nil }

// worker serves one ring.
type worker struct {
	d          *ramDisk
	notify     sync.Mutex // guards r.Call
	r          transport.Ring
	stop       int // eventfd
	done       chan struct{}
	next       uint16 // avail index
	desc, used []byte
	avail      []byte
	usedWord   guestmem.Uint32 // flags and index
	availIdx   guestmem.Uint16
}

func (d *ramDisk) StartQueue(i int, r transport.Ring) error {
	if d.workers[i] != nil {
		panic(fmt.Sprintf("queue %d started twice", i))
	}
	if r.Features != d.acked {
		panic(fmt.Sprintf("ring with features %#x, the device was told %#x", r.Features, d.acked))
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return err
	}
	w := &worker{d: d, r: r, stop: stop, done: make(chan struct{}), next: uint16(r.Base)}
	n := uint64(r.Size)
	for _, part := range []struct {
		b          *[]byte
		addr, size uint64
	}{{&w.desc, r.Desc, 16 * n}, {&w.avail, r.Avail, 6 + 2*n}, {&w.used, r.Used, 6 + 8*n}} {
		if *part.b, err = r.Mem.UserBytes(part.addr, part.size); err != nil {
			panic(err)
		}
	}
	w.availIdx, w.usedWord = guestmem.Uint16At(w.avail, 2), guestmem.Uint32At(w.used, 0)
	d.workers[i] = w
	go w.run()
	return nil
}

func (d *ramDisk) Notify(i int, call, _ int) {
	w := d.workers[i]
	w.notify.Lock()
	defer w.notify.Unlock()
	w.r.Call = call
}

func (d *ramDisk) BeginStop(int) { panic("vhost-user stops queues one by one") }

func (d *ramDisk) StopQueue(i int, _ string) uint32 {
	w := d.workers[i]
	if w == nil {
		panic(fmt.Sprintf("queue %d stopped, but it does not run", i))
	}
	delete(d.workers, i)
	if _, err := unix.Write(w.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		panic(err)
	}
	<-w.done
	_ = unix.Close(w.stop)
	return uint32(w.next)
}

func (w *worker) run() {
	defer close(w.done)
	var count [8]byte
	for {
		for w.availIdx.Load() != w.next {
			w.serve(binary.LittleEndian.Uint16(w.avail[4+2*int(w.next%w.r.Size):]))
			w.next++
			// Without avail_event a driver with EVENT_IDX may keep its kicks.
			guestmem.Uint16At(w.used, 4+8*int(w.r.Size)).Store(w.next)
			w.notify.Lock()
			if w.r.Call >= 0 && !w.d.noCalls {
				_, _ = unix.Write(w.r.Call, []byte{1, 0, 0, 0, 0, 0, 0, 0})
			}
			w.notify.Unlock()
		}
		fds := []unix.PollFd{{Fd: int32(w.stop), Events: unix.POLLIN}, {Fd: int32(w.r.Kick), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			panic(err)
		}
		if fds[0].Revents != 0 {
			return
		}
		_, _ = unix.Read(w.r.Kick, count[:])
	}
}

// serve answers the chain that begins at head.
func (w *worker) serve(head uint16) {
	var out, in []byte // copies of what was sent, and room for the answer
	var dst [][]byte
	table := w.desc
	for i := head; ; {
		d := table[16*int(i):][:16]
		addr, length := binary.LittleEndian.Uint64(d), binary.LittleEndian.Uint32(d[8:])
		flags := binary.LittleEndian.Uint16(d[12:])
		b, err := w.r.Mem.Bytes(addr, uint64(length))
		if err != nil {
			panic(err)
		}
		switch {
		case flags&4 != 0: // VIRTQ_DESC_F_INDIRECT
			table, i = b, 0
			continue
		case flags&2 != 0: // VIRTQ_DESC_F_WRITE
			dst = append(dst, b)
			in = append(in, make([]byte, length)...)
		default:
			out = append(out, b...)
		}
		if flags&1 == 0 { // VIRTQ_DESC_F_NEXT
			break
		}
		i = binary.LittleEndian.Uint16(d[14:])
	}
	w.d.mu.Lock()
	in[len(in)-1] = w.d.do(binary.LittleEndian.Uint32(out), binary.LittleEndian.Uint64(out[8:]), out[16:], in[:len(in)-1])
	w.d.mu.Unlock()
	written := uint32(len(in))
	for _, b := range dst {
		in = in[copy(b, in):]
	}
	idx := uint16(w.usedWord.Load() >> 16)
	e := w.used[4+8*int(idx%w.r.Size):]
	binary.LittleEndian.PutUint32(e, uint32(head))
	binary.LittleEndian.PutUint32(e[4:], written)
	w.usedWord.Store(uint32(idx+1) << 16)
}

// do carries a request out.
func (d *ramDisk) do(typ uint32, sector uint64, out, in []byte) byte {
	at := int(sector) * 512
	switch typ {
	case driver.TypeIn:
		if at+len(in) > len(d.data) {
			return driver.StatusIOErr
		}
		copy(in, d.data[at:])
	case driver.TypeOut:
		if at+len(out) > len(d.data) {
			return driver.StatusIOErr
		}
		copy(d.data[at:], out)
	case driver.TypeFlush:
	case driver.TypeGetID:
		copy(in, "ram disk")
	case driver.TypeDiscard, driver.TypeWriteZeroes:
		for ; len(out) > 0; out = out[16:] {
			from := int(binary.LittleEndian.Uint64(out)) * 512
			clear(d.data[from : from+512*int(binary.LittleEndian.Uint32(out[8:]))])
		}
	case driver.TypeZoneAppend:
		z := sector / zoneSectors
		if sector%zoneSectors != 0 || d.wp[z]+uint64(len(out)/512) > (z+1)*zoneSectors {
			return driver.StatusZoneInvalidCmd
		}
		copy(d.data[d.wp[z]*512:], out)
		binary.LittleEndian.PutUint64(in, d.wp[z])
		d.wp[z] += uint64(len(out) / 512)
	case driver.TypeZoneReset:
		d.wp[sector/zoneSectors] = sector
	case driver.TypeZoneReport:
		clear(in)
		n := uint64(0)
		for z := sector / zoneSectors; z < zoneCount && 64+64*(n+1) <= uint64(len(in)); z++ {
			b := in[64+64*n:]
			binary.LittleEndian.PutUint64(b, zoneSectors)
			binary.LittleEndian.PutUint64(b[8:], z*zoneSectors)
			binary.LittleEndian.PutUint64(b[16:], d.wp[z])
			b[24], b[25] = driver.ZoneTypeSWR, driver.ZoneImpOpen
			n++
		}
		binary.LittleEndian.PutUint64(in, n)
	default:
		return driver.StatusUnsupp
	}
	return driver.StatusOK
}
