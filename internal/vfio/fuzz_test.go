package vfio

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/internal/testleak"
	"github.com/zvhost/zvhost/vfiouser"
)

// What a script has a client do. An operation is followed by what it needs.
const (
	opWrite  = iota // BYTE of the common configuration, BYTE how many, BYTES
	opNotify        // BYTE queue
	opRead          // BYTE page, BYTE offset, BYTE how many
	opMap           // BYTE page of the guest's memory, BYTE pages, BYTE how
	opUnmap         // BYTE which
	opIRQ           // BYTE vector, BYTE with an eventfd or not
	opReset         // DEVICE_RESET
	opLeave         // the client leaves and another one comes
	opChange        // BYTE the device's configuration changes, or it needs a reset
	opStart         // a driver sets everything up: BYTE features, BYTE page of its rings
	opConfig        // BYTE of configuration space, BYTE what is written
	numOps
)

// The registers of the common configuration that opStart writes.
const (
	comDriverFeatureSelect = 8
	comDriverFeature       = 12
	comConfigVector        = 16
	comStatus              = 20
	comQueueSelect         = 22
	comQueueSize           = 24
	comQueueVector         = 26
	comQueueEnable         = 28
	comQueueDesc           = 32
)

// A script reads what a client does from bytes.
type script struct {
	t  *testing.T
	f  *Function
	b  []byte
	fd struct{ mem, event int }

	maps []vfiouser.DMA
}

func (s *script) next() byte {
	if len(s.b) == 0 {
		return 0
	}
	v := s.b[0]
	s.b = s.b[1:]
	return v
}

func (s *script) write(off uint64, p ...byte) { _ = s.f.WriteRegion(regionBAR0, p, off) }

// write16 and write64 write a register.
func (s *script) write16(off uint64, v uint16) { s.write(off, byte(v), byte(v>>8)) }
func (s *script) write64(off uint64, v uint64) {
	for i := range uint64(2) {
		s.write(off+4*i, byte(v>>(32*i)), byte(v>>(32*i+8)), byte(v>>(32*i+16)), byte(v>>(32*i+24)))
	}
}

// start is what a driver does.
func (s *script) start(features byte, page byte) {
	s.write(comStatus, 0)
	s.write(comStatus, 1)
	s.write(comStatus, 3)
	s.write(comDriverFeatureSelect, 0, 0, 0, 0)
	s.write(comDriverFeature, 0, 0, 0, features&1<<5) // EVENT_IDX
	s.write(comDriverFeatureSelect, 1, 0, 0, 0)
	s.write(comDriverFeature, 1|features&2<<1, 0, 0, 0) // VERSION_1, RING_PACKED
	s.write(comStatus, 11)
	s.write16(comConfigVector, 2)
	for q := range uint16(2) {
		s.write16(comQueueSelect, q)
		s.write16(comQueueSize, 64)
		s.write16(comQueueVector, q)
		at := uint64(page)<<12 + uint64(q)<<13
		for i := range uint64(3) {
			s.write64(comQueueDesc+8*i, at+0x800*i)
		}
		s.write16(comQueueEnable, 1)
	}
	s.write(comStatus, 15)
}

func (s *script) overlaps(d vfiouser.DMA) bool {
	return slices.ContainsFunc(s.maps, func(m vfiouser.DMA) bool {
		return m.Address < d.Address+d.Size && d.Address < m.Address+m.Size
	})
}

// addMap maps what a session would let through.
func (s *script) addMap(page, pages, how byte) {
	d := vfiouser.DMA{Address: uint64(page) << 12, Size: (uint64(pages) + 1) << 12, Offset: uint64(page) << 12, Readable: true, Writable: how&1 == 0}
	if s.overlaps(d) {
		return
	}
	var file *foreign.FD
	if how&2 == 0 {
		n, err := unix.FcntlInt(uintptr(s.fd.mem), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			s.t.Fatal(err)
		}
		file = foreign.NewFD(n)
	}
	if s.f.MapDMA(d, file) == nil {
		s.maps = append(s.maps, d)
	}
}

func (s *script) run(dev *fakeDevice) {
	for len(s.b) > 0 {
		switch s.next() % numOps {
		case opWrite:
			at, n := uint64(s.next()), int(s.next()%9)
			p := make([]byte, n)
			for i := range p {
				p[i] = s.next()
			}
			s.write(at, p...)
		case opNotify:
			s.write(0x3000+4*uint64(s.next()), 0, 0)
		case opRead:
			off := uint64(s.next()%8)<<12 + uint64(s.next())
			_ = s.f.ReadRegion(regionBAR0, make([]byte, s.next()%17), off)
		case opMap:
			s.addMap(s.next(), s.next(), s.next())
		case opUnmap:
			which := int(s.next())
			if which == 0xff && len(s.maps) > 0 {
				if s.f.UnmapDMA(s.maps) == nil {
					s.maps = nil
				}
			} else if which < len(s.maps) {
				if s.f.UnmapDMA([]vfiouser.DMA{s.maps[which]}) == nil {
					s.maps = slices.Delete(s.maps, which, which+1)
				}
			}
		case opIRQ:
			v, fd := uint32(s.next()%3), -1
			if s.next()&1 == 0 {
				fd = s.fd.event
			}
			s.f.SetIRQ(irqMSIX, v, fd)
		case opReset:
			_ = s.f.Reset()
		case opLeave:
			s.f.Disconnect()
			s.maps = nil
			s.f.Begin()
		case opChange:
			v := s.next()
			dev.capacity.Store(uint64(v))
			dev.broken.Store(v&1 != 0)
			dev.change()
		case opStart:
			s.start(s.next(), s.next())
		case opConfig:
			at, v := uint64(s.next()), s.next()
			_ = s.f.WriteRegion(regionConfig, []byte{v, v}, at)
			_ = s.f.ReadRegion(regionConfig, make([]byte, 4), at)
		}
	}
}

// functionSeeds: rings that run, over changes of the map, of vectors and of the device.
var functionSeeds = []string{
	"",
	"\x03\x00\xff\x00" + "\x05\x00\x00" + "\x05\x01\x00" + "\x05\x02\x00" + "\x09\x00\x00" + "\x01\x00" + "\x04\x00" + "\x03\x00\x0f\x00" + "\x01\x01" + "\x06",
	"\x03\x00\x0f\x00" + "\x09\x03\x02" + "\x03\x20\x10\x00" + "\x04\xff" + "\x03\x02\x00\x00" + "\x03\x03\x08\x00" + "\x08\x02" + "\x08\x01" + "\x07",
	"\x03\x00\x0f\x02" + "\x09\x00\x00" + "\x03\x40\x0f\x01" + "\x09\x00\x40" + "\x03\x60\x0f\x00" + "\x09\x02\x60" + "\x07" + "\x03\x00\x0f\x00" + "\x09\x01\x00" + "\x00\x14\x01\x00",
	"\x03\x00\x0f\x00" + "\x09\x00\x00" + "\x02\x00\x14\x04" + "\x02\x02\x00\x08" + "\x0a\x10\xff" + "\x0a\x42\x80" + "\x00\x16\x02\x01\x00" + "\x00\x1a\x02\x02\x00",
}

// FuzzFunction plays a client and a driver that do anything in any order. The device is never
// asked for what transport.Device rules out (fakeDevice panics if it is), and when the client has
// left no queue runs and nothing of its memory is left.
func FuzzFunction(f *testing.F) {
	for _, seed := range functionSeeds {
		f.Add([]byte(seed))
	}
	var fd struct{ mem, event int }
	var err error
	if fd.mem, err = unix.MemfdCreate("fuzz", unix.MFD_CLOEXEC); err != nil {
		f.Fatal(err)
	}
	if fd.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = unix.Close(fd.mem); _ = unix.Close(fd.event) })
	if err := unix.Ftruncate(fd.mem, 1<<20); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4096 {
			return
		}
		before := testleak.Take()
		dev := newFake()
		fn, err := New(dev, Options{Type: 2, Class: 0x018000, ConfigBytes: 96, QueueSize: 256, ResetWait: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		s := &script{t: t, f: fn, b: b, fd: fd}
		fn.Begin()
		s.run(dev)
		fn.Disconnect()
		if len(dev.rings) > 0 {
			t.Errorf("queues run: %v", dev.rings)
		}
		fn.Close()
		if leaks := before.Wait(); len(leaks) > 0 {
			t.Fatal(leaks)
		}
	})
}

// The seeds reach what they are meant to reach: each but the first starts rings.
func TestFunctionSeeds(t *testing.T) {
	for i, seed := range functionSeeds[1:] {
		dev := newFake()
		fn, err := New(dev, Options{Type: 2, Class: 0x018000, ConfigBytes: 96, QueueSize: 256})
		if err != nil {
			t.Fatal(err)
		}
		mem, err := unix.MemfdCreate("seeds", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Ftruncate(mem, 1<<20); err != nil {
			t.Fatal(err)
		}
		event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			t.Fatal(err)
		}
		s := &script{t: t, f: fn, b: []byte(seed)}
		s.fd.mem, s.fd.event = mem, event
		fn.Begin()
		s.run(dev)
		fn.Disconnect()
		fn.Close()
		_ = unix.Close(mem)
		_ = unix.Close(event)
		if dev.starts < 2 {
			t.Errorf("seed %d: %d starts: %s", i+1, dev.starts, dev.seen())
		}
	}
}
