package virtiopci

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model is the function once more, from the specification's words and not from the code: numbers
// are literal, each register has its case, and the device's calls are predicted.
type model struct {
	offered            uint64
	dsel, gsel         uint32
	accepted           [2]uint32
	configVector       uint16
	status, generation uint8
	qsel               uint16
	queue              [2]modelQueue
	isr                uint8
	needsReset, due    bool
	config, shown      []byte
	calls              []string
	interrupts         []uint16
}

type modelQueue struct {
	size, vector  uint16
	enabled, runs bool
	addr          [6]uint32
}

func newModel(offered uint64, config []byte) *model {
	m := &model{offered: offered, config: bytes.Clone(config), shown: bytes.Clone(config)}
	m.reset()
	m.calls = nil
	return m
}

func (m *model) reset() {
	for i := range m.queue {
		if m.queue[i].runs {
			m.calls = append(m.calls, fmt.Sprintf("stop %d", i))
		}
		m.queue[i] = modelQueue{size: 256, vector: 0xffff}
	}
	m.dsel, m.gsel, m.accepted, m.configVector, m.status, m.qsel, m.isr, m.needsReset, m.due = 0, 0, [2]uint32{}, 0xffff, 0, 0, 0, false, false
	m.calls = append(m.calls, "reset")
}

func (m *model) features() uint64 { return uint64(m.accepted[1])<<32 | uint64(m.accepted[0]) }

func (m *model) start(i int) {
	q := &m.queue[i]
	if q.runs || m.needsReset {
		return
	}
	if m.features()>>34&1 == 0 && q.size&(q.size-1) != 0 {
		m.fail()
		return
	}
	at := func(j int) uint64 { return uint64(q.addr[j+1])<<32 | uint64(q.addr[j]) }
	m.calls = append(m.calls, fmt.Sprintf("start %d {Size:%d Desc:%d Driver:%d Device:%d Vector:%d}", i, q.size, at(0), at(2), at(4), q.vector))
	q.runs = true
}

func (m *model) fail() {
	m.needsReset = true
	m.change()
}

func (m *model) change() {
	m.due = true
	m.report()
}

func (m *model) report() {
	if m.due && m.status&4 != 0 {
		m.due = false
		m.isr |= 2
		if m.configVector != 0xffff {
			m.interrupts = append(m.interrupts, m.configVector)
		}
	}
}

func vectorOf(v uint64) uint16 {
	if v > 2 {
		return 0xffff
	}
	return uint16(v)
}

// write is the driver's write of a register at its natural width.
func (m *model) write(off uint64, v uint64) {
	var q *modelQueue
	if m.qsel < 2 {
		q = &m.queue[m.qsel]
	}
	free := q != nil && !q.enabled
	switch off {
	case 0:
		m.dsel = uint32(v)
	case 8:
		m.gsel = uint32(v)
	case 12:
		if m.gsel < 2 && m.status&8 == 0 {
			m.accepted[m.gsel] = uint32(v)
		}
	case 16:
		m.configVector = vectorOf(v)
	case 20:
		m.writeStatus(uint8(v))
	case 22:
		m.qsel = uint16(v)
	case 24:
		packed := m.features()>>34&1 == 1
		if free && v >= 1 && v <= 256 && (packed || v&(v-1) == 0) {
			q.size = uint16(v)
		}
	case 26:
		if q != nil {
			q.vector = vectorOf(v)
			if q.runs {
				m.calls = append(m.calls, fmt.Sprintf("vector %d %d", m.qsel, q.vector))
			}
		}
	case 28:
		if free && v == 1 {
			q.enabled = true
			if m.status&4 != 0 {
				m.start(int(m.qsel))
			}
		}
	case 32, 36, 40, 44, 48, 52:
		if free {
			q.addr[(off-32)/4] = uint32(v)
		}
	case 58:
		if q != nil && v == 1 && m.status&8 != 0 && m.features()>>40&1 == 1 {
			if q.runs {
				m.calls = append(m.calls, fmt.Sprintf("stop %d", m.qsel))
			}
			*q = modelQueue{size: 256, vector: 0xffff}
		}
	}
}

func (m *model) writeStatus(v uint8) {
	if v == 0 {
		m.reset()
		return
	}
	m.status |= v & (1 | 2 | 128)
	if v&8 != 0 && m.status&8 == 0 && m.features()&^m.offered == 0 && m.features()>>32&1 == 1 {
		m.status |= 8
		m.calls = append(m.calls, fmt.Sprintf("features %#x", m.features()&^(7<<38)))
	}
	if v&4 != 0 && m.status&(4|8) == 8 {
		m.status |= 4
		m.report()
		for i := range m.queue {
			if m.queue[i].enabled {
				m.start(i)
			}
		}
	}
}

// read is what a register of natural width reads.
func (m *model) read(off uint64) uint64 {
	var q modelQueue
	exists := m.qsel < 2
	if exists {
		q = m.queue[m.qsel]
	} else {
		q.vector = 0xffff
	}
	bit := func(b bool) uint64 {
		if b {
			return 1
		}
		return 0
	}
	switch off {
	case 0:
		return uint64(m.dsel)
	case 4:
		if m.dsel < 2 {
			return m.offered >> (32 * m.dsel) & 0xffffffff
		}
	case 8:
		return uint64(m.gsel)
	case 12:
		if m.gsel < 2 {
			return uint64(m.accepted[m.gsel]) & (m.offered >> (32 * m.gsel))
		}
	case 16:
		return uint64(m.configVector)
	case 18:
		return 2
	case 20:
		return uint64(m.status) | bit(m.needsReset)<<6
	case 21:
		return uint64(m.generation)
	case 22:
		return uint64(m.qsel)
	case 24:
		return uint64(q.size)
	case 26:
		return uint64(q.vector)
	case 28:
		return bit(q.enabled)
	case 30:
		if exists {
			return uint64(m.qsel)
		}
	case 32, 36, 40, 44, 48, 52:
		return uint64(q.addr[(off-32)/4])
	case 56:
		if exists && m.status&8 != 0 && m.features()>>39&1 == 1 {
			return uint64(m.qsel)
		}
	}
	return 0
}

// wide is a write of any width at any place in the structure.
func (m *model) wide(off uint64, p []byte) {
	for _, g := range registers {
		if g.off >= off && g.off+g.n <= off+uint64(len(p)) {
			var v uint64
			for i := range g.n {
				v |= uint64(p[g.off-off+i]) << (8 * i)
			}
			m.write(g.off, v)
		}
	}
}

// values are worth writing: the edges of all registers, and of feature words.
var values = []uint64{0, 1, 2, 3, 4, 7, 11, 15, 64, 100, 128, 255, 256, 257, 0xffff, 0x80, 1 << 5, 1 << 9, 1<<5 | 1<<9, 1<<0 | 1<<2, 1 | 1<<8, 1 | 1<<7, 1 | 1<<7 | 1<<8, 1<<0 | 1<<6, 0xffffffff, 0x12345678}

// Random accesses have the outcome that the model predicts, in each register and each call of the
// device.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRig(rapidTB{T: nil, rt: t}, func(d *fakeDevice, o *Options) {
			d.features |= FeatureRingReset | FeatureNotifConfigData | FeatureNotificationData
			o.ResetWait = time.Hour
		})
		m := newModel(r.dev.features, r.dev.config)
		steps := rapid.IntRange(1, 150).Draw(t, "steps")
		for range steps {
			step(t, r, m)
			compare(t, r, m)
		}
		r.Reset()
		r.Wait()
	})
}

func step(t *rapid.T, r *rig, m *model) {
	switch rapid.SampledFrom([]string{"write", "write", "write", "status", "queue", "wide", "notify", "isr", "config", "driver config", "change", "fail", "negotiate"}).Draw(t, "step") {
	case "write":
		g := rapid.SampledFrom(registers).Draw(t, "register")
		v := rapid.SampledFrom(values).Draw(t, "value")
		r.put(g.off, int(g.n), v)
		m.write(g.off, v&(1<<(8*g.n)-1))
	case "status":
		v := rapid.SampledFrom([]uint64{0, 1, 3, 11, 15, 15, 15, 0x80}).Draw(t, "status")
		r.put(20, 1, v)
		m.write(20, v)
	case "queue":
		i := rapid.Uint64Range(0, 2).Draw(t, "queue")
		for _, w := range []struct{ off, v uint64 }{{22, i}, {26, i}, {32, 0x1000 * i}, {28, 1}} {
			n := 2
			if w.off == 32 {
				n = 4
			}
			r.put(w.off, n, w.v)
			m.write(w.off, w.v)
		}
	case "negotiate":
		f := rapid.SampledFrom([]uint64{1 << 32, 1<<32 | 1<<34, 1<<32 | 1<<40, 1<<32 | 1<<39, 1<<32 | 1<<38 | 1<<39 | 1<<40, 1 << 9, 1<<32 | 1<<6}).Draw(t, "features")
		for _, w := range []struct{ off, v uint64 }{{8, 0}, {12, f & 0xffffffff}, {8, 1}, {12, f >> 32}} {
			r.put(w.off, 4, w.v)
			m.write(w.off, w.v)
		}
		r.put(20, 1, 11)
		m.write(20, 11)
	case "wide":
		off := rapid.Uint64Range(0, 70).Draw(t, "offset")
		p := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 2, 3, 15, 0xff}), 1, 24).Draw(t, "bytes")
		if err := r.WriteBAR(0, p, off); err != nil {
			t.Fatal(err)
		}
		m.wide(off, p)
	case "notify":
		off := rapid.Uint64Range(0, 9).Draw(t, "offset")
		n := rapid.IntRange(1, 8).Draw(t, "bytes")
		r.put(0x3000+off, n, 0)
		for i := range uint64(2) {
			if 4*i >= off && 4*i+2 <= off+uint64(n) && m.queue[i].runs {
				m.calls = append(m.calls, fmt.Sprintf("notify %d", i))
			}
		}
	case "isr":
		if got := r.get(0x1000, 1); got != uint64(m.isr) {
			t.Fatalf("ISR status %#x, not %#x", got, m.isr)
		}
		m.isr = 0
	case "config":
		off := rapid.Uint64Range(0, 95).Draw(t, "offset")
		if got := r.get(0x2000+off, 1); got != uint64(m.config[off]) {
			t.Fatalf("device configuration at %d: %#x", off, got)
		}
		if !bytes.Equal(m.config, m.shown) {
			m.generation++
			m.shown = bytes.Clone(m.config)
		}
	case "driver config":
		v := rapid.Byte().Draw(t, "writeback")
		r.put(0x2000+32, 1, uint64(v))
		m.config[32] = v
		m.calls = append(m.calls, fmt.Sprintf("config %02x at 32", v))
	case "change":
		r.dev.config[8]++
		m.config[8]++
		r.ConfigChanged()
		m.change()
	case "fail":
		r.NeedsReset()
		m.fail()
	}
}

func compare(t *rapid.T, r *rig, m *model) {
	for _, g := range registers {
		if got, want := r.get(g.off, int(g.n)), m.read(g.off); got != want {
			t.Fatalf("%s reads %#x, not %#x", g.name, got, want)
		}
	}
	if got := r.dev.took(); !slices.Equal(got, m.calls) {
		t.Fatalf("the device was called %q, not %q", got, m.calls)
	}
	if got := r.interrupts(); !slices.Equal(got, m.interrupts) {
		t.Fatalf("interrupts %d, not %d", got, m.interrupts)
	}
	m.calls, m.interrupts = nil, nil
}

// rapidTB lets a rig fail a check of rapid.
type rapidTB struct {
	*testing.T
	rt *rapid.T
}

func (b rapidTB) Helper()                   {}
func (b rapidTB) Fatal(args ...any)         { b.rt.Fatal(args...) }
func (b rapidTB) Fatalf(f string, a ...any) { b.rt.Fatalf(f, a...) }
