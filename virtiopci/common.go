package virtiopci

import (
	"encoding/binary"
	"math/bits"
)

// Offsets in the common configuration structure ("Common configuration structure layout").
const (
	comDeviceFeatureSelect = 0
	comDeviceFeature       = 4
	comDriverFeatureSelect = 8
	comDriverFeature       = 12
	comConfigVector        = 16
	comNumQueues           = 18
	comStatus              = 20
	comGeneration          = 21
	comQueueSelect         = 22
	comQueueSize           = 24
	comQueueVector         = 26
	comQueueEnable         = 28
	comQueueNotifyOff      = 30
	comQueueDesc           = 32
	comQueueDriver         = 40
	comQueueDevice         = 48
	comNotifConfigData     = 56
	comQueueReset          = 58

	commonBytes = 60
)

// common returns the structure as the driver reads it.
func (f *Function) common() (b [commonBytes]byte) {
	put16, put32, put64 := binary.LittleEndian.PutUint16, binary.LittleEndian.PutUint32, binary.LittleEndian.PutUint64
	put32(b[comDeviceFeatureSelect:], f.deviceFeatureSelect)
	put32(b[comDeviceFeature:], half(f.offered, f.deviceFeatureSelect))
	put32(b[comDriverFeatureSelect:], f.driverFeatureSelect)
	put32(b[comDriverFeature:], half(f.driverFeatures&f.offered, f.driverFeatureSelect))
	put16(b[comConfigVector:], uint16(f.configVector.Load()))
	put16(b[comNumQueues:], uint16(len(f.queues)))
	b[comStatus] = f.deviceStatus()
	b[comGeneration] = f.generation
	put16(b[comQueueSelect:], f.queueSelect)
	q := f.selected()
	if q == nil {
		put16(b[comQueueVector:], NoVector) // and a size of 0: the queue is unavailable
		return b
	}
	put16(b[comQueueSize:], q.Size)
	put16(b[comQueueVector:], q.Vector)
	if q.enabled {
		b[comQueueEnable] = 1
	}
	put16(b[comQueueNotifyOff:], f.queueSelect)
	put64(b[comQueueDesc:], q.Desc)
	put64(b[comQueueDriver:], q.Driver)
	put64(b[comQueueDevice:], q.Device)
	if f.accepted(FeatureNotifConfigData) {
		put16(b[comNotifConfigData:], f.queueSelect)
	}
	if q.ending != nil {
		b[comQueueReset] = 1
	}
	return b
}

// half is the 32 feature bits that a select register selects: there are none from bit 64 on.
func half(features uint64, sel uint32) uint32 {
	switch sel {
	case 0:
		return uint32(features)
	case 1:
		return uint32(features >> 32)
	}
	return 0
}

// selected is the queue that queue_select names, nil if there is no such queue.
func (f *Function) selected() *queue {
	if int(f.queueSelect) >= len(f.queues) {
		return nil
	}
	return &f.queues[f.queueSelect]
}

// accepted says whether the driver has accepted a feature.
func (f *Function) accepted(feature uint64) bool {
	return f.status&StatusFeaturesOK != 0 && f.driverFeatures&feature != 0
}

// A field is one that the driver writes.
type field struct {
	off, size uint64
	write     func(f *Function, v uint32)
}

// commonFields are in order of address.
var commonFields = [...]field{
	{comDeviceFeatureSelect, 4, func(f *Function, v uint32) { f.deviceFeatureSelect = v }},
	{comDriverFeatureSelect, 4, func(f *Function, v uint32) { f.driverFeatureSelect = v }},
	{comDriverFeature, 4, (*Function).writeDriverFeature},
	{comConfigVector, 2, func(f *Function, v uint32) { f.configVector.Store(uint32(f.vector(v))) }},
	{comStatus, 1, (*Function).writeStatus},
	{comQueueSelect, 2, func(f *Function, v uint32) { f.queueSelect = uint16(v) }},
	{comQueueSize, 2, (*Function).writeQueueSize},
	{comQueueVector, 2, (*Function).writeQueueVector},
	{comQueueEnable, 2, (*Function).writeQueueEnable},
	{comQueueDesc, 4, func(f *Function, v uint32) { f.writeAddress(v, 0, (*queue).desc) }},
	{comQueueDesc + 4, 4, func(f *Function, v uint32) { f.writeAddress(v, 32, (*queue).desc) }},
	{comQueueDriver, 4, func(f *Function, v uint32) { f.writeAddress(v, 0, (*queue).driver) }},
	{comQueueDriver + 4, 4, func(f *Function, v uint32) { f.writeAddress(v, 32, (*queue).driver) }},
	{comQueueDevice, 4, func(f *Function, v uint32) { f.writeAddress(v, 0, (*queue).device) }},
	{comQueueDevice + 4, 4, func(f *Function, v uint32) { f.writeAddress(v, 32, (*queue).device) }},
	{comQueueReset, 2, (*Function).writeQueueReset},
}

// writeCommon is a write of p at byte at of the structure.
func (f *Function) writeCommon(p []byte, at uint64) {
	for _, d := range commonFields {
		// During a reset writes have no effect, and this write may have begun it.
		if f.resetting != nil {
			return
		}
		if d.off < at || d.off+d.size > at+uint64(len(p)) {
			continue
		}
		var b [4]byte
		copy(b[:], p[d.off-at:][:d.size])
		d.write(f, binary.LittleEndian.Uint32(b[:]))
	}
}

// vector is the vector that an event is mapped to when the driver writes v: what is not in the
// table cannot be mapped ("MSI-X Vector Configuration").
func (f *Function) vector(v uint32) uint16 {
	if v >= uint32(f.opt.Vectors) {
		return NoVector
	}
	return uint16(v)
}

// writeDriverFeature stores 32 feature bits. They cannot change once they are accepted, and bits
// from 64 on do not exist.
func (f *Function) writeDriverFeature(v uint32) {
	if f.status&StatusFeaturesOK != 0 {
		return
	}
	switch f.driverFeatureSelect {
	case 0:
		f.driverFeatures = f.driverFeatures&^0xffffffff | uint64(v)
	case 1:
		f.driverFeatures = f.driverFeatures&0xffffffff | uint64(v)<<32
	}
}

// configurable is the selected queue, if the driver may set it up: it is not enabled.
func (f *Function) configurable() *queue {
	if q := f.selected(); q != nil && !q.enabled && q.ending == nil {
		return q
	}
	return nil
}

// sizeFits says whether a queue can have n descriptors: in a split ring a power of two.
func (f *Function) sizeFits(n uint32) bool {
	return n != 0 && n <= uint32(f.opt.QueueSize) &&
		(f.driverFeatures&FeatureRingPacked != 0 || bits.OnesCount32(n) == 1)
}

func (f *Function) writeQueueSize(v uint32) {
	if q := f.configurable(); q != nil && f.sizeFits(v) {
		q.Size = uint16(v)
	}
}

// writeQueueVector maps the queue to a vector, which is possible at any time.
func (f *Function) writeQueueVector(v uint32) {
	q := f.selected()
	if q == nil {
		return
	}
	q.Vector = f.vector(v)
	if q.running && q.ending == nil {
		f.dev.SetVector(int(f.queueSelect), q.Vector)
	}
}

// writeQueueEnable enables the queue. 0 is not to be written, and a queue that runs is not stopped
// by it: that is what queue_reset is for.
func (f *Function) writeQueueEnable(v uint32) {
	q := f.configurable()
	if q == nil || v != 1 {
		return
	}
	q.enabled = true
	if f.status&StatusDriverOK != 0 {
		f.start(int(f.queueSelect))
	}
}

func (q *queue) desc() *uint64   { return &q.Desc }
func (q *queue) driver() *uint64 { return &q.Driver }
func (q *queue) device() *uint64 { return &q.Device }

// writeAddress stores the 32 bits of an address from bit shift on.
func (f *Function) writeAddress(v uint32, shift int, which func(*queue) *uint64) {
	if q := f.configurable(); q != nil {
		p := which(q)
		*p = *p&^(0xffffffff<<shift) | uint64(v)<<shift
	}
}

// writeQueueReset resets one queue ("Virtqueue Reset").
func (f *Function) writeQueueReset(v uint32) {
	q := f.selected()
	if q == nil || v != 1 || q.ending != nil || !f.accepted(FeatureRingReset) {
		return
	}
	if !q.running {
		f.clearQueue(q)
		return
	}
	i, ending := int(f.queueSelect), make(chan struct{})
	q.ending = ending
	f.pending++
	go func() {
		defer close(ending)
		f.dev.StopQueue(i)
	}()
	f.wait(ending)
}
