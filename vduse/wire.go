package vduse

import (
	"encoding/binary"
	"fmt"
)

// The numbers and structures of include/uapi/linux/vduse.h. All are in the machine's byte
// order, which is little-endian where zvhost runs.

var le = binary.LittleEndian

// Sizes of structures, in bytes.
const (
	nameBytes      = 256 // VDUSE_NAME_MAX, the terminating zero included
	configBytes    = 336 // struct vduse_dev_config, without the configuration space
	iotlbBytes     = 32
	setConfigBytes = 8
	vqConfigBytes  = 32
	vqInfoBytes    = 48
	vqEventfdBytes = 8
	RequestBytes   = 152 // struct vduse_dev_request
	ResponseBytes  = 152 // struct vduse_dev_response
	payloadAt      = 24  // of a request or response
)

// The ioctls.
const (
	ioctlType = 0x81

	ioSetVersion = 1<<30 | 8<<16 | ioctlType<<8 | 0x01
	ioCreate     = 1<<30 | configBytes<<16 | ioctlType<<8 | 0x02
	ioDestroy    = 1<<30 | nameBytes<<16 | ioctlType<<8 | 0x03

	ioIotlbGetFD     = 3<<30 | iotlbBytes<<16 | ioctlType<<8 | 0x10
	ioGetFeatures    = 2<<30 | 8<<16 | ioctlType<<8 | 0x11
	ioSetConfig      = 1<<30 | setConfigBytes<<16 | ioctlType<<8 | 0x12
	ioInjectConfig   = ioctlType<<8 | 0x13
	ioSetupQueue     = 1<<30 | vqConfigBytes<<16 | ioctlType<<8 | 0x14
	ioQueueInfo      = 3<<30 | vqInfoBytes<<16 | ioctlType<<8 | 0x15
	ioSetupKick      = 1<<30 | vqEventfdBytes<<16 | ioctlType<<8 | 0x16
	ioInjectQueueIRQ = 1<<30 | 4<<16 | ioctlType<<8 | 0x17
)

// A RequestType is what the kernel asks for in a message.
type RequestType uint32

// The messages of API version 0.
const (
	GetVQState  RequestType = 0
	SetStatus   RequestType = 1
	UpdateIOTLB RequestType = 2
)

func (t RequestType) String() string {
	switch t {
	case GetVQState:
		return "GET_VQ_STATE"
	case SetStatus:
		return "SET_STATUS"
	case UpdateIOTLB:
		return "UPDATE_IOTLB"
	}
	return fmt.Sprintf("message %d", uint32(t))
}

// A Request is a message of the kernel's.
type Request struct {
	Type        RequestType
	ID          uint32
	Queue       uint32 // of GetVQState
	Status      uint8  // of SetStatus
	Start, Last uint64 // of UpdateIOTLB: addresses, both included
}

func (r Request) String() string {
	switch r.Type {
	case GetVQState:
		return fmt.Sprintf("%v queue %d", r.Type, r.Queue)
	case SetStatus:
		return fmt.Sprintf("%v %#x", r.Type, r.Status)
	case UpdateIOTLB:
		return fmt.Sprintf("%v %#x-%#x", r.Type, r.Start, r.Last)
	}
	return r.Type.String()
}

// ParseRequest reads a message. It refuses one of another length; a message of an unknown
// type has its type and number only.
func ParseRequest(b []byte) (Request, error) {
	if len(b) != RequestBytes {
		return Request{}, fmt.Errorf("a message of %d bytes, and not of %d", len(b), RequestBytes)
	}
	r := Request{Type: RequestType(le.Uint32(b)), ID: le.Uint32(b[4:])}
	switch p := b[payloadAt:]; r.Type {
	case GetVQState:
		r.Queue = le.Uint32(p)
	case SetStatus:
		r.Status = p[0]
	case UpdateIOTLB:
		r.Start, r.Last = le.Uint64(p), le.Uint64(p[8:])
	}
	return r, nil
}

// Append appends the message in bytes.
func (r Request) Append(b []byte) []byte {
	m := make([]byte, RequestBytes)
	le.PutUint32(m, uint32(r.Type))
	le.PutUint32(m[4:], r.ID)
	switch p := m[payloadAt:]; r.Type {
	case GetVQState:
		le.PutUint32(p, r.Queue)
	case SetStatus:
		p[0] = r.Status
	case UpdateIOTLB:
		le.PutUint64(p, r.Start)
		le.PutUint64(p[8:], r.Last)
	}
	return append(b, m...)
}

// A Response answers the request with the same number.
type Response struct {
	ID     uint32
	Failed bool
	Queue  uint32  // of GetVQState
	State  VQState // of GetVQState
}

// Append appends the answer in bytes.
func (r Response) Append(b []byte) []byte {
	m := make([]byte, ResponseBytes)
	le.PutUint32(m, r.ID)
	if r.Failed {
		le.PutUint32(m[4:], 1) // VDUSE_REQ_RESULT_FAILED
	}
	le.PutUint32(m[payloadAt:], r.Queue)
	copy(m[payloadAt+4:], r.State[:])
	return append(b, m...)
}

// ParseResponse reads an answer. It refuses one of another length or result.
func ParseResponse(b []byte) (Response, error) {
	if len(b) != ResponseBytes {
		return Response{}, fmt.Errorf("an answer of %d bytes, and not of %d", len(b), ResponseBytes)
	}
	result := le.Uint32(b[4:])
	if result > 1 {
		return Response{}, fmt.Errorf("an answer with the result %d", result)
	}
	r := Response{ID: le.Uint32(b), Failed: result == 1, Queue: le.Uint32(b[payloadAt:])}
	copy(r.State[:], b[payloadAt+4:])
	return r, nil
}

// A VQState says where a ring goes on, as the kernel has it: struct vduse_vq_state_split or
// vduse_vq_state_packed.
type VQState [8]byte

// stateOf is base (transport.Ring) as the kernel has it.
func stateOf(base uint32, packed bool) (s VQState) {
	if !packed {
		le.PutUint16(s[:], uint16(base))
		return s
	}
	avail, used := uint16(base), uint16(base>>16)
	le.PutUint16(s[0:], avail>>15)
	le.PutUint16(s[2:], avail&0x7fff)
	le.PutUint16(s[4:], used>>15)
	le.PutUint16(s[6:], used&0x7fff)
	return s
}

// base is the reverse of stateOf.
func (s VQState) base(packed bool) uint32 {
	if !packed {
		return uint32(le.Uint16(s[:]))
	}
	avail := le.Uint16(s[0:])<<15 | le.Uint16(s[2:])&0x7fff
	used := le.Uint16(s[4:])<<15 | le.Uint16(s[6:])&0x7fff
	return uint32(avail) | uint32(used)<<16
}

// A Config is what a device is made with.
type Config struct {
	Name      string // see CheckName
	DeviceID  uint32 // virtio's number for the kind of device
	VendorID  uint32
	Features  uint64
	Queues    int
	QueueSize uint16 // the most descriptors of a ring
	Space     []byte // the configuration space, at most a page
}

// append appends struct vduse_dev_config with the configuration space.
func (c *Config) append(b []byte) []byte {
	m := make([]byte, configBytes)
	copy(m[:nameBytes-1], c.Name)
	le.PutUint32(m[256:], c.VendorID)
	le.PutUint32(m[260:], c.DeviceID)
	le.PutUint64(m[264:], c.Features)
	le.PutUint32(m[272:], uint32(c.Queues))
	le.PutUint32(m[276:], ringAlign)
	le.PutUint32(m[332:], uint32(len(c.Space)))
	return append(append(b, m...), c.Space...)
}

// ringAlign is how rings are aligned in memory, in bytes. Linux's driver uses whole pages.
const ringAlign = 4096

// QueueInfo is what the driver has said of a ring.
type QueueInfo struct {
	Size                     uint32 // descriptors
	Desc, Driver, DeviceArea uint64
	State                    VQState
	Ready                    bool
}

// parseQueueInfo reads struct vduse_vq_info.
func parseQueueInfo(b *[vqInfoBytes]byte) QueueInfo {
	q := QueueInfo{
		Size: le.Uint32(b[4:]), Desc: le.Uint64(b[8:]), Driver: le.Uint64(b[16:]), DeviceArea: le.Uint64(b[24:]),
		Ready: b[40] != 0,
	}
	copy(q.State[:], b[32:])
	return q
}
