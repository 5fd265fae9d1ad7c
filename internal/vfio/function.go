package vfio

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vfiouser"
	"github.com/zvhost/zvhost/virtio/transport"
	"github.com/zvhost/zvhost/virtiopci"
)

// What a PCI function shows over vfio (VFIO_PCI_*_REGION_INDEX, VFIO_PCI_*_IRQ_INDEX).
const (
	regionBAR0   = 0
	regionConfig = 7
	numRegions   = 9 // six BARs, the ROM, configuration space and VGA

	irqMSIX = 2
	numIRQs = 5 // INTx, MSI, MSI-X, errors, requests
)

// resetWait is how long the message that begins a reset waits for its end. QEMU waits for a
// reply for 5 s. The driver sees in the device status when a longer reset has ended.
const resetWait = 3 * time.Second

// Options are what a function has beside its device.
type Options struct {
	Type        uint16 // virtio device ID
	Class       uint32 // PCI class code
	ConfigBytes int    // length of the device's configuration space
	QueueSize   uint16 // most descriptors of a queue
	// Log takes log lines, from any goroutine; nil drops them.
	Log vfiouser.LogFunc
	// ResetWait is how long a message that begins a reset waits for its end; 0: 3 seconds.
	ResetWait time.Duration
	// Behind runs what nobody has to wait for: unmapping memory. nil: at once.
	Behind func(func())
}

// A Function is the PCI function of a device. It implements vfiouser.Device, for one session
// after the other.
type Function struct {
	dev transport.Device
	opt Options
	pci *virtiopci.Function

	turn      chan struct{} // has an element while the device is called; see turn.go
	exchanges sync.WaitGroup
	shown     []byte // the device's configuration as it was last read; the session's goroutine has it

	mu       sync.Mutex    // guards what follows; never held while the device is called
	wait     time.Duration // Options.ResetWait, but for tests
	late     bool          // the client has waited in vain for the end of the current turn
	stale    bool          // the device is to be called for what has changed; see give
	features uint64
	queues   []queue // running and base are changed in a turn only
	mem      memory
	changing *exchange // its queues have not stopped; nil: there is none

	irqs  interrupts
	kicks []*foreign.FD // by queue
}

// New makes the function of dev. Close releases it.
func New(dev transport.Device, o Options) (*Function, error) {
	if o.Log == nil {
		o.Log = func(vfiouser.Level, string, ...any) {}
	}
	if o.Behind == nil {
		o.Behind = func(f func()) { f() }
	}
	if o.ResetWait == 0 {
		o.ResetWait = resetWait
	}
	f := &Function{dev: dev, opt: o, queues: make([]queue, dev.Queues()), turn: make(chan struct{}, 1), wait: o.ResetWait, shown: make([]byte, o.ConfigBytes)}
	f.mem.warn = f.warn
	var err error
	f.pci, err = virtiopci.New(driven{f}, virtiopci.Options{
		Type: o.Type, Class: o.Class, Queues: dev.Queues(), QueueSize: o.QueueSize, ConfigBytes: o.ConfigBytes,
		Interrupt: f.irqs.signal, Log: f.warn, ResetWait: o.ResetWait,
	})
	if err != nil {
		return nil, err
	}
	f.irqs.vectors = make([]vector, f.pci.Vectors())
	for range f.queues {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("eventfd: %w", err)
		}
		f.kicks = append(f.kicks, foreign.NewFD(fd))
	}
	return f, nil
}

// Close releases the function. No session may run.
func (f *Function) Close() {
	for _, k := range f.kicks {
		_ = k.Close() // a failed close leaves nothing to do
	}
}

func (f *Function) warn(format string, args ...any) { f.opt.Log(vfiouser.LevelWarn, format, args...) }

// Begin prepares the device for the next client.
func (f *Function) Begin() { f.dev.Watch(f.changed) }

// changed is what the device calls when its configuration has changed, or when it needs a
// reset, from any goroutine.
func (f *Function) changed() (notified bool) {
	if f.dev.NeedsReset() {
		f.pci.NeedsReset()
		return true
	}
	return f.pci.ConfigChanged()
}

// Info implements vfiouser.Device.
func (f *Function) Info() vfiouser.Info {
	const rw = vfiouser.RegionReadable | vfiouser.RegionWritable
	i := vfiouser.Info{Regions: make([]vfiouser.Region, numRegions), IRQs: make([]vfiouser.IRQ, numIRQs)}
	i.Regions[regionBAR0] = vfiouser.Region{Size: f.pci.BARBytes(), Flags: rw}
	i.Regions[regionConfig] = vfiouser.Region{Size: virtiopci.ConfigBytes, Flags: rw}
	i.IRQs[irqMSIX] = vfiouser.IRQ{Count: uint32(f.pci.Vectors()), Flags: vfiouser.IRQEventfd}
	return i
}

// ReadRegion implements vfiouser.Device.
func (f *Function) ReadRegion(region uint32, dst []byte, off uint64) error {
	if region == regionConfig {
		return errnoOf(f.pci.ReadConfig(dst, off))
	}
	return errnoOf(f.pci.ReadBAR(int(region), dst, off))
}

// WriteRegion implements vfiouser.Device.
func (f *Function) WriteRegion(region uint32, src []byte, off uint64) error {
	if region == regionConfig {
		return errnoOf(f.pci.WriteConfig(src, off))
	}
	return errnoOf(f.pci.WriteBAR(int(region), src, off))
}

// errnoOf gives an error of virtiopci the number that a client receives.
func errnoOf(err error) error {
	if errors.Is(err, virtiopci.ErrRange) {
		return fmt.Errorf("%w: %w", err, unix.EINVAL)
	}
	return err
}

// SetIRQ implements vfiouser.Device. Only MSI-X has vectors.
func (f *Function) SetIRQ(_, v uint32, eventfd int) {
	if err := f.irqs.set(v, eventfd); err != nil {
		f.warn("vector %d: %v", v, err)
	}
	f.apply()
}

// Reset implements vfiouser.Device. A device that has not stopped within Options.ResetWait
// gets the client an error, and continues to stop: the status shows when it has.
func (f *Function) Reset() error {
	f.pci.Reset()
	if f.pci.Resetting() {
		return busy("the device has not stopped within %v, since requests are in flight", f.opt.ResetWait)
	}
	return nil
}

// busy is an error for the client: EBUSY.
func busy(format string, args ...any) error {
	return &vfiouser.Refusal{Errno: unix.EBUSY, Why: fmt.Sprintf(format, args...)}
}

// Disconnect implements vfiouser.Device. The driver cannot continue, since the client cannot
// reconnect to where it was, so the device is reset.
func (f *Function) Disconnect() {
	f.dev.Watch(nil)
	f.pci.Reset()
	f.pci.Wait()
	f.exchanges.Wait()
	f.takeForSure()
	f.dev.BeginFrontEnd()
	f.mu.Lock()
	f.irqs.clear()
	f.stale = true
	regions := f.mem.clear()
	f.mu.Unlock()
	f.give()
	f.opt.Behind(func() {
		for _, r := range regions {
			r.Drain()
			f.mem.unmap(r)
		}
	})
}

// MapDMA implements vfiouser.Device. It does not wait for requests that take long: queues take
// no more requests until they know the memory.
func (f *Function) MapDMA(m vfiouser.DMA, file *foreign.FD) error {
	r, err := mapRegion(m, file)
	if err != nil || r == nil {
		return err
	}
	f.mu.Lock()
	if err := f.mem.add(r); err != nil {
		f.mu.Unlock()
		f.mem.unmap(r)
		return err
	}
	if f.changing != nil { // one that was late: it adds this memory too
		f.mu.Unlock()
		return nil
	}
	x := f.beginLocked("DMA_MAP", nil)
	f.mu.Unlock()
	f.await(x)
	return nil
}

// UnmapDMA implements vfiouser.Device. While requests are in flight that take long it returns an
// error, and the memory stays mapped.
func (f *Function) UnmapDMA(maps []vfiouser.DMA) error {
	f.mu.Lock()
	switch {
	case !f.mem.has(maps): // memory that the device could not use
		f.mu.Unlock()
		return nil
	case f.changing != nil: // one that was late
		f.mu.Unlock()
		return f.errInFlight()
	}
	x := f.beginLocked("DMA_UNMAP", maps)
	f.mu.Unlock()
	if f.await(x) {
		return nil
	}
	f.mu.Lock()
	withdrawn := f.changing == x
	if withdrawn {
		x.unmap = nil
	}
	f.mu.Unlock()
	if withdrawn {
		return f.errInFlight()
	}
	<-x.done // all queues have stopped meanwhile
	return nil
}
