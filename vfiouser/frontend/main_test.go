package frontend

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/internal/testleak"
	"github.com/zvhost/zvhost/vfiouser"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
	"github.com/zvhost/zvhost/virtiopci"
)

func TestMain(m *testing.M) { testleak.Main(m) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const (
	diskSectors = 64
	diskQueues  = 2
)

// ramDisk is a block device in memory, as small as can be: it carries requests out when it is
// notified of them, in the session's goroutine. It knows split rings without event indexes.
type ramDisk struct {
	refuse error
	mute   bool // it answers no request

	acked  uint64
	data   [diskSectors * 512]byte
	mem    *guestmem.Memory
	region *guestmem.Region
	irqs   [diskQueues + 1]int
	queues map[int]virtiopci.Queue
	next   [diskQueues]uint16
}

func (d *ramDisk) Features() uint64 {
	return driver.FeatureVersion1 | driver.FeatureIndirectDesc | driver.BlkFlush | driver.BlkMQ
}

func (d *ramDisk) SetFeatures(f uint64) error {
	d.acked = f
	return d.refuse
}

func (d *ramDisk) ReadConfig(dst []byte, off uint32) error {
	var space [driver.BlkConfigBytes]byte
	binary.LittleEndian.PutUint64(space[:], diskSectors)
	copy(dst, space[off:])
	return nil
}

func (d *ramDisk) WriteConfig([]byte, uint32) error { return errors.New("read-only") }

func (d *ramDisk) StartQueue(i int, q virtiopci.Queue) error {
	if d.mem == nil {
		return errors.New("no memory")
	}
	d.queues[i], d.next[i] = q, 0
	return nil
}

func (d *ramDisk) StopQueue(i int)           { delete(d.queues, i) }
func (d *ramDisk) SetVector(i int, v uint16) {}
func (d *ramDisk) Reset()                    { d.acked = 0 }

func (d *ramDisk) bytes(addr, n uint64) []byte {
	b, err := d.mem.Bytes(addr, n)
	if err != nil {
		panic(err)
	}
	return b
}

func (d *ramDisk) Notify(i int) {
	if d.mute {
		return
	}
	q := d.queues[i]
	n := uint64(q.Size)
	avail, used := d.bytes(q.Driver, 6+2*n), d.bytes(q.Device, 6+8*n)
	for guestmem.Uint16At(avail, 2).Load() != d.next[i] {
		slot := uint64(d.next[i]) % n
		head := binary.LittleEndian.Uint16(avail[4+2*slot:])
		written := d.serve(d.bytes(q.Desc, 16*n), head)
		binary.LittleEndian.PutUint32(used[4+8*slot:], uint32(head))
		binary.LittleEndian.PutUint32(used[8+8*slot:], written)
		d.next[i]++
		guestmem.Uint32At(used, 0).Store(uint32(d.next[i]) << 16) // its flags are 0
	}
	if q.Vector != virtiopci.NoVector && d.irqs[q.Vector] > 0 {
		foreign.Signal(d.irqs[q.Vector])
	}
}

// serve answers the chain that begins at head.
func (d *ramDisk) serve(table []byte, head uint16) (written uint32) {
	var out, in [][]byte
	for i := head; ; {
		e := table[16*int(i):][:16]
		flags := binary.LittleEndian.Uint16(e[12:])
		b := d.bytes(binary.LittleEndian.Uint64(e), uint64(binary.LittleEndian.Uint32(e[8:])))
		switch {
		case flags&4 != 0: // VIRTQ_DESC_F_INDIRECT
			table, i = b, 0
			continue
		case flags&2 != 0: // VIRTQ_DESC_F_WRITE
			in = append(in, b)
			written += uint32(len(b))
		default:
			out = append(out, b)
		}
		if flags&1 == 0 { // VIRTQ_DESC_F_NEXT
			break
		}
		i = binary.LittleEndian.Uint16(e[14:])
	}
	status := in[len(in)-1]
	status[0] = driver.StatusOK
	at := int(binary.LittleEndian.Uint64(out[0][8:])) * 512
	switch typ := binary.LittleEndian.Uint32(out[0]); typ {
	case driver.TypeIn:
		for _, b := range in[:len(in)-1] {
			at += copy(b, d.data[at:])
		}
	case driver.TypeOut:
		for _, b := range out[1:] {
			at += copy(d.data[at:], b)
		}
	case driver.TypeFlush:
	case driver.TypeGetID:
		copy(in[0], "ram disk")
	default:
		status[0] = driver.StatusUnsupp
	}
	return written
}

// door is the disk as a session drives it.
type door struct {
	d   *ramDisk
	pci *virtiopci.Function
}

func (p door) Info() vfiouser.Info {
	const rw = vfiouser.RegionReadable | vfiouser.RegionWritable
	i := vfiouser.Info{Regions: make([]vfiouser.Region, 9), IRQs: make([]vfiouser.IRQ, 5)}
	i.Regions[0] = vfiouser.Region{Size: p.pci.BARBytes(), Flags: rw}
	i.Regions[7] = vfiouser.Region{Size: virtiopci.ConfigBytes, Flags: rw}
	i.IRQs[2] = vfiouser.IRQ{Count: uint32(p.pci.Vectors()), Flags: vfiouser.IRQEventfd}
	return i
}

func (p door) ReadRegion(region uint32, dst []byte, off uint64) error {
	if region == 7 {
		return p.pci.ReadConfig(dst, off)
	}
	return p.pci.ReadBAR(int(region), dst, off)
}

func (p door) WriteRegion(region uint32, src []byte, off uint64) error {
	if region == 7 {
		return p.pci.WriteConfig(src, off)
	}
	return p.pci.WriteBAR(int(region), src, off)
}

func (p door) MapDMA(m vfiouser.DMA, file *foreign.FD) (err error) {
	defer func() { err = errors.Join(err, file.Close()) }()
	p.d.region, err = guestmem.Map(file.Int(), guestmem.RegionDesc{GuestAddr: m.Address, UserAddr: m.Address, Size: m.Size, MmapOffset: m.Offset})
	if err == nil {
		p.d.mem, err = guestmem.New([]*guestmem.Region{p.d.region})
	}
	return err
}

func (p door) UnmapDMA([]vfiouser.DMA) error { panic("the front-end does not unmap memory") }

func (p door) SetIRQ(_, vector uint32, eventfd int) { p.d.irqs[vector] = eventfd }

func (p door) Reset() error {
	p.pci.Reset()
	return nil
}

func (p door) Disconnect() {
	p.pci.Reset()
	p.pci.Wait()
	if p.d.region != nil {
		_ = p.d.region.Unmap()
		p.d.mem, p.d.region = nil, nil
	}
}

// pair makes the two ends of a connection.
func pair(t testing.TB) (ends [2]*net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		c, err := net.FileConn(f)
		check(t, err)
		check(t, f.Close())
		ends[i] = c.(*net.UnixConn)
	}
	return ends
}

// serve serves d, as a device of this type, to a client.
func serve(t testing.TB, d *ramDisk, deviceType uint16) (c *Client, s *vfiouser.Session) {
	t.Helper()
	d.queues = map[int]virtiopci.Queue{}
	pci, err := virtiopci.New(d, virtiopci.Options{Type: deviceType, Class: 0x018000, Queues: diskQueues, ConfigBytes: driver.BlkConfigBytes})
	check(t, err)
	ends := pair(t)
	s, err = vfiouser.NewSession(ends[0], door{d, pci}, vfiouser.Options{})
	check(t, err)
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(); err != nil {
			t.Errorf("the session: %v", err)
		}
	})
	c, err = New(ends[1])
	check(t, err)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		running.Wait()
	})
	return c, s
}
