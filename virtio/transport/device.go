package transport

import (
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// MaxQueues is the most queues that a device has: as many as the in-flight record has rings.
const MaxQueues = inflight.MaxRings

// A Device is a virtio device with its queues, as a transport drives it. One goroutine of
// the transport calls it, one call at a time, so it needs no lock against itself. A session
// is the time from the first call for one front-end (the process, or the kernel, that the
// driver reaches the transport through) to the last. Sessions may follow each other on one
// Device, on different transports too, and each leaves it as it found it: no queue started,
// and Reset and BeginFrontEnd called.
//
// The goroutine that calls has no guard against a front-end that shrinks its
// memory (see package guestmem): StartQueue must leave guest memory to the
// queue's worker.
//
// BeginRing, Adopt, Leave, State, Restore and Serve are for a transport whose sessions
// outlive the process; SaveState, LoadState and Release, for one whose guest can migrate.
type Device interface {
	// Features is every virtio feature bit that the device offers. The transport adds and
	// removes its own: bits 26 and 30 in vhost-user, bit 33 (ACCESS_PLATFORM) in VDUSE.
	Features() uint64
	// SetFeatures passes on what the driver accepted: a subset of Features. No queue is
	// started then. An error is why the device cannot work like that: the transport
	// withholds FEATURES_OK where it can, and queues that are started all the same must
	// answer every request with an error.
	SetFeatures(acked uint64) error
	// Queues is how many queues there are, 1 to MaxQueues. It never changes.
	Queues() int
	// BeginFrontEnd is called after Reset when a front-end has left. The guest of the next
	// one may be another guest, or the same. The device must not use the record any more.
	BeginFrontEnd()
	// ReadConfig fills dst, at least 1 byte, from the configuration space
	// at byte off, for the driver to be shown it. It refuses what does not lie inside
	// the space.
	ReadConfig(dst []byte, off uint32) error
	// WriteConfig is the driver's write to the configuration space at byte off.
	// A front-end may send more than the driver wrote, even the whole space, so
	// the device takes writable fields from src and ignores the others. VDUSE has no such
	// writes.
	WriteConfig(src []byte, off uint32) error
	// SaveState returns the state of the device that migrates with its guest: at most 4096
	// bytes. LoadState takes over a state that the Device of another host has saved. An error
	// says what is wrong with it; nothing is changed then. No queue is started meanwhile.
	SaveState() []byte
	LoadState(state []byte) error
	// Watch sets the function that the device calls, from any goroutine, when its
	// configuration space has changed by itself; it returns whether the front-end was
	// notified. nil removes it: it is not called any more once Watch returns.
	Watch(changed func() (notified bool))
	// ShowQueues sets how many queues the configuration space shows, 1 to Queues, where the
	// front-end may have fewer: in vhost-user, as many as it has set up before it read the
	// space. Until it is called for a front-end the space shows all.
	ShowQueues(n int)
	// BeginRing is called when a ring is about to start, before that is persisted for the
	// next process. usedBefore says that the driver has used the ring with another back-end:
	// it starts where the front-end says, and neither at its beginning nor where this session
	// has stopped it.
	BeginRing(usedBefore bool)
	// StartQueue hands ring i to the device's worker, which looks at the ring at
	// once: requests may be waiting whose kick came before. Everything in r is
	// lent until StopQueue(i) returns. After an error the queue is not started.
	// Of a ring that is Held nothing is touched before Serve.
	StartQueue(i int, r Ring) error
	// Serve lets the queues go that were started with rings that are Held: all that run.
	Serve()
	// BeginStop has queue i, which runs, take no more requests from its ring. It does not wait:
	// StopQueue has to follow. It is for queues that stop together.
	BeginStop(i int)
	// StopQueue takes ring i back. It returns when the last request taken from
	// the ring is answered, and says where the ring is to go on, as Ring.Base does.
	// The transport waits for it, so nothing else is answered meanwhile; why says in a few
	// words what for, to be logged where it takes long.
	StopQueue(i int, why string) (base uint32)
	// Abandon is called, from any goroutine, when the front-end is dead and no process will
	// see an answer: requests that have not begun need not be carried out, and stay in flight
	// in the record if there is one. false, at the session's end, takes it back.
	Abandon(dead bool)
	// Notify exchanges the call and err descriptors of a started ring (see Ring). It
	// waits for no request; the old ones are not used any more when it returns.
	Notify(i int, call, err int)
	// Release is called when the front-end has stopped all queues of a guest that is about to
	// continue elsewhere. Once it has returned, another back-end may be asked to start them.
	// The device stores and closes what only one of the two may have open. If the guest
	// stays after all, StartQueue opens it again. An error says what went wrong: what cannot
	// be stored is not released, and the guest must not leave.
	Release() error
	// Adopt names the requests that were in flight when another process died, before any
	// queue starts. The device must not give what belongs to them (an address in a zone) to
	// other requests until the queues start and resume them, or Leave or Reset is called. A
	// later call replaces an earlier one, but for queues that have started; nil says that no
	// queue will resume these requests.
	Adopt(r *inflight.Record)
	// Leave leaves the requests that Adopt named, of queues that were not started, to
	// another process, as the record has them. No queue is started meanwhile.
	Leave()
	// State is what another process needs to know of the device, beside the features, to
	// resume the session: which disk it is, and what the driver was shown and has chosen in
	// the configuration space. choices is not 0.
	State() (is, choices uint64)
	// Restore takes over what State returned in another process; choices is 0 if that was an
	// older zvhost, which did not save them. An error says that the disk is another one.
	Restore(is, choices uint64) error
	// NeedsReset says whether a queue cannot be served any more since the device was
	// last reset: DEVICE_NEEDS_RESET of the device status. Any goroutine may call it.
	NeedsReset() bool
	// Reset puts the device back to where it was before SetFeatures. No queue is
	// started then. What is stored on the disk is not touched.
	Reset()
}

// Ring is what a queue's worker needs to know of its ring. Each transport gives all of
// Size to Err; what follows has a zero value that says that there is none.
type Ring struct {
	Size uint16 // descriptors; a power of two in a split ring
	// Desc, Avail and Used are addresses as Memory.UserBytes takes them, aligned as the
	// ring's format needs it, and wholly inside Mem for a ring of this size. In a
	// packed ring Avail is the driver's event suppression structure, Used the
	// device's. In vhost-user they are addresses of the front-end's own space; where
	// drivers give addresses of the memory that requests use (PCI, VDUSE), the regions of
	// Mem have the same user and guest address.
	Desc, Avail, Used uint64
	// Base is where to go on: in a split ring the next avail index, in a packed
	// ring the next descriptors to take and to use with their wrap counters, as SET_VRING_BASE
	// of vhost-user has them. A ring that a driver has just set up begins at 0, a packed one
	// at 0x8000_8000.
	Base     uint32
	Features uint64 // what SetFeatures was given; bit 34 makes it a packed ring
	// Mem is all memory that the ring and its requests may name: vhost-user's memory table,
	// vfio-user's DMA map, the entries of VDUSE's IOTLB. It does not change while the ring
	// runs: the transport stops the ring, and starts it again with other memory.
	Mem *guestmem.Memory
	// Kick, Call and Err are eventfds, set to non-blocking. The driver's notifications come
	// through Kick (in vfio-user and VDUSE the transport, or the kernel, writes it), the
	// device's leave through Call: an MSI-X vector, an injected interrupt. Call is -1 when
	// the driver wants no notification, Err when nobody asked to learn of a broken ring.
	Kick, Call, Err int
	// NoMemory is what an operator can do where a request names memory that is not in Mem,
	// for the log; it may be empty.
	NoMemory string

	// Log, where it is not nil, is where every byte that is written into guest
	// memory is to be marked, the used ring's from guest address UsedLog on, if that
	// is not guestmem.Unlogged. It is written before it is marked. LogCall is an
	// eventfd to signal when something was marked, or -1. Only vhost-user has a dirty log;
	// without Log the other two are not looked at.
	Log     *guestmem.Log
	UsedLog uint64
	LogCall int
	// Record is the part of the in-flight record for this ring, nil if there is no record:
	// no later process will resume the requests. Life is the number of the ring's life in it.
	// Records is the whole record, of all rings.
	Record  *inflight.Ring
	Life    uint64
	Records *inflight.Record
	// Held rings are not served before Device.Serve: a transport that continues the session
	// of an earlier process starts all of its rings first.
	Held bool
	// Reconnected says that the driver has used another of the front-end's rings with
	// another back-end (see Device.BeginRing), so that it may have used this one too,
	// wherever that goes on.
	Reconnected bool
}

// Start is what the record of requests in flight needs to know of r.
func (r *Ring) Start() inflight.Start {
	return inflight.Start{Size: r.Size, Base: r.Base, Life: r.Life}
}
