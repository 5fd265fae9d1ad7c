package virtiopci

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

const (
	pageBytes        = 4096
	notifyMultiplier = 4 // bytes between the notification registers of two queues
	vectorBytes      = 16
)

// An area is where a structure is in the BAR.
type area struct{ off, size uint32 }

// areas is the layout of BAR 0.
type areas struct {
	common, isr, device, notify, table, pending area

	size uint32 // of the BAR, a power of two
}

func layOut(o Options) areas {
	pages := func(n uint32) uint32 { return (n + pageBytes - 1) &^ (pageBytes - 1) }
	a := areas{
		common: area{0, commonBytes},
		isr:    area{1 * pageBytes, 1},
		device: area{2 * pageBytes, uint32(o.ConfigBytes)},
		notify: area{3 * pageBytes, uint32(o.Queues) * notifyMultiplier},
		table:  area{4 * pageBytes, uint32(o.Vectors) * vectorBytes},
	}
	a.pending = area{a.table.off + pages(a.table.size), uint32(o.Vectors+63) / 64 * 8}
	end := a.pending.off + pages(a.pending.size)
	a.size = 1 << bits.Len32(end-1)
	return a
}

// of returns the part of an access, p at off, that lies in a, and where in a that is.
func (a area) of(p []byte, off uint64) (part []byte, at uint64) {
	start, end := max(off, uint64(a.off)), min(off+uint64(len(p)), uint64(a.off)+uint64(a.size))
	if start >= end {
		return nil, 0
	}
	return p[start-off : end-off], start - uint64(a.off)
}

// ReadBAR reads at byte off of a BAR. Only BAR 0 exists.
func (f *Function) ReadBAR(bar int, dst []byte, off uint64) error {
	if bar != 0 || off > f.BARBytes() || uint64(len(dst)) > f.BARBytes()-off {
		return ErrRange
	}
	f.settle()
	f.readBAR(dst, off)
	return nil
}

func (f *Function) readBAR(dst []byte, off uint64) {
	clear(dst)
	if p, at := f.area.common.of(dst, off); p != nil {
		c := f.common()
		copy(p, c[at:])
	}
	if p, _ := f.area.isr.of(dst, off); p != nil {
		p[0] = byte(f.isr.Swap(0)) // "ISR status capability": reading resets it
	}
	if p, at := f.area.device.of(dst, off); p != nil {
		f.refresh()
		copy(p, f.shown[at:])
	}
	if p, at := f.area.table.of(dst, off); p != nil {
		copy(p, f.table[at:])
	}
}

// refresh reads the device's configuration and changes the generation if it is not what the driver
// was shown last. Comparing needs no word from the device, which may come too late.
func (f *Function) refresh() {
	if f.resetting != nil {
		return // the device is being reset: what was last shown
	}
	f.readDevice(f.fresh)
	if !bytes.Equal(f.fresh, f.shown) {
		f.generation++
		f.fresh, f.shown = f.shown, f.fresh
	}
}

func (f *Function) readDevice(dst []byte) {
	if len(dst) == 0 {
		return
	}
	if err := f.dev.ReadConfig(dst, 0); err != nil {
		f.opt.Log("device configuration cannot be read: %v", err)
		clear(dst)
	}
}

// WriteBAR writes at byte off of a BAR. Only BAR 0 exists.
func (f *Function) WriteBAR(bar int, src []byte, off uint64) error {
	if bar != 0 || off > f.BARBytes() || uint64(len(src)) > f.BARBytes()-off {
		return ErrRange
	}
	f.settle()
	f.writeBAR(src, off)
	return nil
}

func (f *Function) writeBAR(src []byte, off uint64) {
	if p, at := f.area.notify.of(src, off); p != nil {
		f.notify(at, len(p))
	}
	if p, at := f.area.common.of(src, off); p != nil {
		f.writeCommon(p, at)
	}
	if p, at := f.area.device.of(src, off); p != nil && f.resetting == nil {
		if err := f.dev.WriteConfig(p, uint32(at)); err != nil {
			f.opt.Log("write of %d bytes at %d of the device configuration: %v", len(p), at, err)
		}
	}
	if p, at := f.area.table.of(src, off); p != nil {
		for i, v := range p {
			w := f.tableMask[at+uint64(i)]
			f.table[at+uint64(i)] = f.table[at+uint64(i)]&^w | v&w
		}
	}
}

// notify is a write of n bytes at byte at of the notification structure.
func (f *Function) notify(at uint64, n int) {
	if f.resetting != nil {
		return
	}
	end := at + uint64(n)
	for i := (at + notifyMultiplier - 1) / notifyMultiplier; i*notifyMultiplier+2 <= end; i++ {
		if f.queues[i].running && f.queues[i].ending == nil {
			f.dev.Notify(int(i))
		}
	}
}

// initTable makes the MSI-X table as it is after a reset: each vector is masked (PCI, "MSI-X Table
// Structure").
func (f *Function) initTable() {
	f.table = make([]byte, f.area.table.size)
	f.tableMask = make([]byte, f.area.table.size)
	for at := 0; at < len(f.table); at += vectorBytes {
		f.table[at+12] = 1
		m := f.tableMask[at : at+vectorBytes]
		binary.LittleEndian.PutUint32(m, ^uint32(3)) // the address is a multiple of 4
		binary.LittleEndian.PutUint64(m[4:], ^uint64(0))
		m[12] = 1
	}
}
