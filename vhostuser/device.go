package vhostuser

import (
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// A Device is what a session puts behind the protocol: a virtio device with its
// queues. A session calls it from one goroutine, one call at a time, so it needs
// no lock against itself. Sessions may follow each other on one Device, and each
// leaves it as it found it: no queue started, and Reset and BeginFrontEnd called.
//
// The goroutine that calls has no guard against a front-end that shrinks its
// memory (see package guestmem): StartQueue must leave guest memory to the
// queue's worker.
type Device interface {
	// Features is every virtio feature bit that the device offers. Bits 26 and 30 are
	// the session's own and are masked out.
	Features() uint64
	// SetFeatures tells the device what the driver took: a subset of Features.
	// No queue is started then. An error is why it cannot work like that: the
	// front-end is notified as far as it can be, and queues that it starts all the
	// same must answer every request with an error.
	SetFeatures(acked uint64) error
	// Queues is how many queues there are, 1 to MaxQueues. It never changes.
	Queues() int
	// BeginFrontEnd is called after Reset when a front-end has left. The guest of the next
	// one may be another guest, or the same. The device must not use the record any more.
	BeginFrontEnd()
	// ReadConfig fills dst, 1 to MaxConfig bytes, from the configuration space
	// at byte off, for the driver to be shown it. It refuses what does not lie inside
	// the space.
	ReadConfig(dst []byte, off uint32) error
	// WriteConfig is the driver's write to the configuration space at byte off.
	// A front-end may send more than the driver wrote, even the whole space, so
	// the device takes writable fields from src and ignores the others.
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
	// ShowQueues sets how many queues the configuration space shows, 1 to Queues: as many as
	// the front-end has set up before it read the space. Until it is called for a front-end
	// the space shows all.
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
	// StopQueue takes ring i back. It returns when the last request taken from
	// the ring is answered, and says where the ring is to go on, as Ring.Base does.
	// The session waits for it, so nothing else is answered meanwhile; why says in a few
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
	// last reset: DEVICE_NEEDS_RESET of the device status.
	NeedsReset() bool
	// Reset puts the device back to where it was before SetFeatures. No queue is
	// started then. What is stored on the disk is not touched.
	Reset()
}

// Ring is what a queue's worker needs to know of its ring.
type Ring struct {
	Size uint16 // descriptors; a power of two in a split ring
	// Desc, Avail and Used are user addresses (Memory.UserBytes), aligned as the
	// ring's format needs it, and wholly inside Mem for a ring of this size. In a
	// packed ring Avail is the driver's event suppression structure, Used the
	// device's.
	Desc, Avail, Used uint64
	// Base is where to go on: in a split ring the next avail index, in a packed
	// ring the next descriptors to take and to use with their wrap counters (see
	// SET_VRING_BASE in the protocol).
	Base     uint32
	Features uint64 // what SetFeatures was told; bit 34 makes it a packed ring
	Mem      *guestmem.Memory
	// Kick, Call and Err are eventfds, set to non-blocking. Call and Err are -1 when the
	// driver wants no notification.
	Kick, Call, Err int
	// Log, where it is not nil, is where every byte that is written into guest
	// memory is to be marked, the used ring's from guest address UsedLog on, if that
	// is not guestmem.Unlogged. It is written before it is marked. LogCall is an
	// eventfd to signal when something was marked, or -1.
	Log     *guestmem.Log
	UsedLog uint64
	LogCall int
	// Record is the part of the in-flight record for this ring, nil if there is no record:
	// no later process will resume the requests. Life is the number of the ring's life in it.
	// Records is the whole record, of all rings.
	Record  *inflight.Ring
	Life    uint64
	Records *inflight.Record
	// Held rings are not served before Device.Serve.
	Held bool
	// Reconnected says that the driver has used another of the front-end's rings elsewhere
	// (see Device.BeginRing), so that it may have used this one too, wherever that stands.
	Reconnected bool
}

// Start is what the record of requests in flight needs to know of r.
func (r *Ring) Start() inflight.Start {
	return inflight.Start{Size: r.Size, Base: r.Base, Life: r.Life}
}

// Level is how much a log line matters.
type Level uint8

// The levels of a session's log lines.
const (
	LevelDebug Level = iota // each message in words
	LevelInfo               // what happens once in a session's life
	LevelWarn               // the front-end did something wrong, or had to be told no
)

// LogFunc takes one log line.
type LogFunc func(level Level, format string, args ...any)
