package vhostuser

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// mark marks the page of a guest address, as a worker of ring 0 does.
func (d *fakeDevice) mark(at uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rings[0].Log.Mark(at, 1)
}

// wantLog fails unless ring 0 was started with such a log.
func (p *peer) wantLog(on bool, used uint64) {
	p.t.Helper()
	p.call(GetFeatures, nil)
	r := p.dev.ring(0)
	if r.Log != nil != on || r.UsedLog != used && on {
		p.t.Fatalf("log %v, used ring %#x; want %v, %#x", r.Log, r.UsedLog, on, used)
	}
	if r.Features&ownFeatures != 0 {
		p.t.Errorf("the device sees features %#x", r.Features)
	}
}

// QEMU's way: the log, the feature, the ring's flag, another log, and all of it
// back, while the ring runs. Each step goes on where the ring was, and the device
// hears nothing of the feature ("Migration").
func TestSessionLog(t *testing.T) {
	dev := new(fakeDevice)
	dev.progress = 1
	p := connect(t, dev)
	p.negotiate()
	p.setUp(0)
	p.kick(0)
	p.tells("features 0x100020000; start 0 at 7")
	file := memFD(t, 8192)
	p.call(SetLogBase, LogArea{64, 4096}.Append(nil), file)
	p.tells("stop 0 at 8; start 0 at 8")
	p.wantLog(false, 0)
	const logged = needed | FeatureProtocol | FeatureLogAll
	p.must(SetFeatures, AppendU64(nil, logged))
	p.tells("stop 0 at 9; start 0 at 9")
	p.wantLog(true, guestmem.Unlogged)
	p.must(SetFeatures, AppendU64(nil, logged)) // no change, no trouble
	p.tells("")
	a := ringAddr(0)
	a.Flags, a.Log = VringLog, 0x1000
	p.must(SetVringAddr, a.Append(nil))
	p.wantLog(true, 0x1000)
	if call := dev.ring(0).LogCall; call != -1 {
		t.Errorf("log call %d", call)
	}
	p.must(SetLogFD, nil, eventFD(t))
	if call := dev.ring(0).LogCall; call < 0 {
		t.Errorf("log call %d", call)
	}
	dev.mark(17 * 4096)
	b := make([]byte, 64)
	if _, err := unix.Pread(file, b, 4096); err != nil || b[2] != 2 {
		t.Errorf("marks %x, %v", b, err)
	}

	// A larger log: nothing goes to the old one from its answer on.
	other := memFD(t, 4096)
	if v, err := ParseU64(p.call(SetLogBase, LogArea{128, 0}.Append(nil), other)); err != nil || v != 0 {
		t.Errorf("answer %d, %v", v, err)
	}
	p.wantLog(true, 0x1000)
	dev.mark(0)
	if _, err := unix.Pread(other, b, 0); err != nil || b[0] != 1 {
		t.Errorf("marks %x, %v", b, err)
	}

	p.must(SetFeatures, AppendU64(nil, logged&^FeatureLogAll))
	p.wantLog(false, 0)
	p.must(SetVringAddr, ringAddr(0).Append(nil))
	p.must(SetFeatures, AppendU64(nil, logged))
	p.wantLog(true, guestmem.Unlogged)
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// A used ring that the log does not cover is not served: its marks would be lost.
func TestSessionLogRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		log   uint64 // guest address for the used ring
		words string
	}{
		"behind the log":       {64 * 8 * 4096, "is to be logged at guest address 0x200000, which the dirty log of 0x40 bytes does not cover"},
		"over its end":         {64*8*4096 - 8, "does not cover"},
		"around all addresses": {1<<64 - 8, "does not cover"},
	} {
		t.Run(name, func(t *testing.T) {
			p := connect(t, new(fakeDevice))
			p.negotiate()
			p.call(SetLogBase, LogArea{64, 0}.Append(nil), memFD(t, 4096))
			p.must(SetFeatures, AppendU64(nil, needed|FeatureProtocol|FeatureLogAll))
			p.setUp(0)
			p.kick(0)
			a := ringAddr(0)
			a.Flags, a.Log = VringLog, c.log
			p.mustNot(c.words, SetVringAddr, a.Append(nil))
			if err := p.leave(); err != nil {
				t.Fatal(err)
			}
		})
	}
	// Logging without a log is said, and nothing is marked.
	dev := new(fakeDevice)
	p := connect(t, dev)
	p.negotiate()
	p.setUp(0)
	p.kick(0)
	p.must(SetFeatures, AppendU64(nil, needed|FeatureProtocol|FeatureLogAll))
	p.wantLog(false, 0)
	if !p.logged(LevelWarn, "there is no log: nothing is marked until SET_LOG_BASE") {
		t.Error("nothing is said of it")
	}
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// SET_LOG_BASE is answered, and its answer cannot say no: a wrong one ends the
// session, lest a machine moves without what was written.
func TestSessionLogBaseRefused(t *testing.T) {
	for name, c := range map[string]struct {
		payload []byte
		files   int
	}{
		"no bytes":      {LogArea{0, 0}.Append(nil), 1},
		"past the file": {LogArea{4097, 0}.Append(nil), 1},
		"far past it":   {LogArea{1 << 63, 1 << 63}.Append(nil), 1},
		"no file":       {LogArea{64, 0}.Append(nil), 0},
		"two":           {LogArea{64, 0}.Append(nil), 2},
		"short":         {make([]byte, 8), 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := connect(t, new(fakeDevice))
			p.negotiate()
			var fds []int
			for range c.files {
				fds = append(fds, memFD(t, 4096))
			}
			p.send(SetLogBase, c.payload, fds...)
			if err := p.ends(); err == nil {
				t.Error("the session ends without a reason")
			}
		})
	}
	p := connect(t, new(fakeDevice))
	p.negotiate()
	p.mustNot("it has to be an eventfd", SetLogFD, nil, memFD(t, 1))
	p.mustNot("0 descriptors came along instead of 1", SetLogFD, nil)
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}
