package vfio

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/testleak"
	"github.com/zvhost/zvhost/vfiouser"
	"github.com/zvhost/zvhost/vfiouser/client"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
	"github.com/zvhost/zvhost/virtio/transport"
	"github.com/zvhost/zvhost/virtiopci/pcidriver"
)

func TestMain(m *testing.M) { testleak.Main(m) }

const (
	memBase  = 0x100000
	memBytes = 1 << 20
	// Where things are in the guest's memory: rings, then requests and their data.
	ringBytes = 0x10000
	dataAt    = memBase + 8*ringBytes
	ringSize  = 256 // its descriptors fill a page
)

// A rig is a function with a client and a driver of its own.
type rig struct {
	t      *testing.T
	fn     *Function
	client *client.Client
	driver *pcidriver.Device
	memfd  int
	mem    *guestmem.Memory // the guest's
	region *guestmem.Region
	fds    []int // eventfds by vector
	ended  chan error

	mu   sync.Mutex
	logs []string
}

// access is how the driver reaches the registers: through the client.
type access struct{ c *client.Client }

func (a access) ReadConfig(dst []byte, off uint64) error  { return a.c.Read(regionConfig, dst, off) }
func (a access) WriteConfig(src []byte, off uint64) error { return a.c.Write(regionConfig, src, off) }
func (a access) ReadBAR(bar int, dst []byte, off uint64) error {
	return a.c.Read(uint32(bar), dst, off)
}

// WriteBAR posts, as QEMU does.
func (a access) WriteBAR(bar int, src []byte, off uint64) error {
	return a.c.Post(uint32(bar), src, off)
}

// newRig makes a function of a device, connects, and probes it. Its memory is not mapped.
func newRig(t *testing.T, dev transport.Device) *rig {
	t.Helper()
	r := &rig{t: t}
	var err error
	r.fn, err = New(dev, Options{Type: 2, Class: 0x018000, ConfigBytes: 96, QueueSize: 256, ResetWait: 50 * time.Millisecond, Log: func(_ vfiouser.Level, format string, args ...any) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.logs = append(r.logs, fmt.Sprintf(format, args...))
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.fn.Close)
	r.memfd, err = unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(r.memfd) })
	if err := unix.Ftruncate(r.memfd, memBytes); err != nil {
		t.Fatal(err)
	}
	r.region, err = guestmem.Map(r.memfd, guestmem.RegionDesc{GuestAddr: memBase, UserAddr: memBase, Size: memBytes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.region.Unmap() })
	if r.mem, err = guestmem.New([]*guestmem.Region{r.region}); err != nil {
		t.Fatal(err)
	}
	r.connect()
	return r
}

// connect starts a session, and finds the function through it.
func (r *rig) connect() {
	r.t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		c, err := net.FileConn(f)
		if err != nil {
			r.t.Fatal(err)
		}
		_ = f.Close()
		ends[i] = c.(*net.UnixConn)
	}
	s, err := vfiouser.NewSession(ends[0], r.fn, vfiouser.Options{})
	if err != nil {
		r.t.Fatal(err)
	}
	r.fn.Begin()
	r.ended = make(chan error, 1)
	go func() { r.ended <- s.Run() }()
	if r.client, err = client.New(ends[1]); err != nil {
		r.t.Fatal(err)
	}
	if r.driver, err = pcidriver.Probe(access{r.client}); err != nil {
		r.t.Fatal(err)
	}
	for range r.driver.Vectors {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			r.t.Fatal(err)
		}
		r.fds = append(r.fds, fd)
	}
	r.must(r.client.SetEventfds(irqMSIX, 0, r.fds...))
}

// leave ends the session.
func (r *rig) leave() {
	r.t.Helper()
	r.must(r.client.Close())
	r.must(<-r.ended)
	for _, fd := range r.fds {
		r.must(unix.Close(fd))
	}
	r.fds = nil
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err, r.logged())
	}
}

func (r *rig) logged() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.logs, "\n")
}

func (r *rig) mapAll() {
	r.t.Helper()
	r.must(r.client.Map(memBase, memBytes, 0, r.memfd))
}

// ring makes a ring for queue i, and sets the queue up with vector i.
func (r *rig) ring(i int, features uint64) *driver.Ring {
	r.t.Helper()
	ring, err := driver.NewRing(r.mem, uint64(memBase+i*ringBytes), ringSize, features)
	r.must(err)
	r.must(r.driver.SetUpQueue(i, ring.Config(), uint16(i)))
	return ring
}

// start negotiates, and starts queues with these features. The last vector is for
// configuration changes.
func (r *rig) start(queues int, features uint64) (rings []*driver.Ring) {
	r.t.Helper()
	r.must(r.driver.Reset())
	r.must(r.driver.Negotiate(features))
	r.must(r.driver.SetConfigVector(uint16(r.driver.Vectors - 1)))
	for i := range queues {
		rings = append(rings, r.ring(i, features))
	}
	r.must(r.driver.Start())
	return rings
}

// count reads the counter of a vector's eventfd, which becomes 0.
func (r *rig) count(v int) uint64 {
	r.t.Helper()
	var b [8]byte
	if _, err := unix.Read(r.fds[v], b[:]); errors.Is(err, unix.EAGAIN) {
		return 0
	} else if err != nil {
		r.t.Fatal(err)
	}
	return uint64(b[0]) | uint64(b[1])<<8
}

// interrupted waits for an interrupt.
func (r *rig) interrupted(v int) {
	r.t.Helper()
	r.await(fmt.Sprintf("an interrupt of vector %d", v), func() bool { return r.count(v) > 0 })
}

// await waits until something holds.
func (r *rig) await(what string, holds func() bool) {
	r.t.Helper()
	for range 60_000 {
		if holds() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	r.t.Fatalf("%s has not come within a minute\n%s", what, r.logged())
}
