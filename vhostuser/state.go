package vhostuser

import (
	"github.com/zvhost/zvhost/virtio/guestmem"
	"github.com/zvhost/zvhost/virtio/transport"
)

const (
	// MaxMemSlots is how many memory regions a session holds at once, each with
	// one descriptor and one mapping. 509 is what Linux's vhost and libvhost-user
	// allow (VHOST_USER_MAX_RAM_SLOTS), and what QEMU wants for virtio-mem.
	MaxMemSlots = 509
)

// state is all that a front-end has sent to a session, as plain data: no pointer, no
// descriptor, nothing that is only true in this process. With the descriptors (of each
// region; kick, call and err of each ring) it is enough for the next process to resume the
// session.
type state struct {
	protocol    uint64 // protocol features negotiated
	features    uint64 // as SET_FEATURES had them, bit 30 included
	featuresSet bool   // SET_FEATURES came
	refused     bool   // but the device cannot work like that
	protocolSet bool   // SET_PROTOCOL_FEATURES came
	owned       bool   // SET_OWNER came
	// protocolNew and backNew: only messages that may precede SET_OWNER have arrived since
	// protocol features were negotiated, and since the back channel was given.
	protocolNew, backNew bool
	status               uint8 // virtio device status
	// What the device persists: Device.State.
	device, choices uint64

	// named is how many rings the front-end has sent something for, up to the last of them;
	// shown, how many queues its configuration space shows, 0 before it is read.
	named, shown uint16

	logSize, logOffset uint64 // the dirty log's place in its file; size 0: none

	numRegions uint32
	regions    [MaxMemSlots]guestmem.RegionDesc // the first numRegions count

	rings [transport.MaxQueues]ringState
}

// nextLife is the generation behind another one. They begin again behind the largest number,
// since a front-end may have put any into the record; 0: there is none.
func nextLife(life uint64) uint64 { return max(life+1, 1) }

// ringState is a ring as the front-end set it up.
type ringState struct {
	num     uint16 // descriptors; 0: not set
	base    uint32 // see Ring.Base; while a worker has the ring, where it began
	baseSet bool   // else a ring begins at its beginning
	enabled bool
	addrSet bool
	refused bool // it was to start and did not: the next process does not start it either
	ours    bool // it continues where this session has stopped it, if it ever ran
	// life is the ring generation: a new one after each stop. adopted: the in-flight record
	// came from the front-end, and the ring continues from it, whatever base is.
	life    uint64
	adopted bool
	desc    uint64 // user addresses
	avail   uint64
	used    uint64
	logUsed bool   // writes to the used ring are to be logged,
	log     uint64 // from this guest address on
}
