package vhostuser

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// ownerStates are what a first owner may leave behind on its connection.
var ownerStates = []struct {
	name string
	make func(*peer)
}{
	{"nothing", func(p *peer) { p.must(SetProtocolFeatures, AppendU64(nil, Offered)); p.must(SetOwner, nil) }},
	{"features", func(p *peer) { p.negotiate() }},
	{"other protocol features", func(p *peer) {
		p.must(SetProtocolFeatures, AppendU64(nil, Offered&^ProtocolStatus))
		p.must(SetOwner, nil)
		p.must(SetFeatures, AppendU64(nil, needed|FeatureProtocol))
	}},
	{"rings that are set up", func(p *peer) { p.negotiate(); p.setUp(0); p.setUp(1) }},
	{"rings that run", func(p *peer) { p.negotiate(); p.setUp(0); p.kick(0); p.setUp(1); p.kick(1) }},
	{"a packed ring that runs", func(p *peer) {
		p.must(SetProtocolFeatures, AppendU64(nil, Offered))
		p.must(SetOwner, nil)
		p.must(SetFeatures, AppendU64(nil, needed|featureRingPacked|FeatureProtocol))
		p.setUp(0)
		p.kick(0)
	}},
	{"a ring that was stopped", func(p *peer) {
		p.negotiate()
		p.setUp(0)
		p.kick(0)
		p.call(GetVringBase, VringState{0, 0}.Append(nil))
	}},
	{"memory in slots", func(p *peer) {
		p.negotiate()
		p.must(AddMemReg, AppendMemReg(nil, desc(0, 1<<20, 0)), memFD(p.t, 1<<20))
		p.must(AddMemReg, AppendMemReg(nil, desc(1<<21, 1<<20, 0)), memFD(p.t, 1<<20))
	}},
	{"a dirty log", func(p *peer) {
		p.negotiate()
		p.setUp(0)
		p.call(SetLogBase, LogArea{Size: pageSize}.Append(nil), memFD(p.t, pageSize))
		p.must(SetLogFD, nil, eventFD(p.t))
		p.must(SetFeatures, AppendU64(nil, needed|FeatureProtocol|FeatureLogAll))
		p.kick(0)
	}},
	{"a record", func(p *peer) {
		p.negotiate()
		p.call(GetInflightFD, InflightArea{Queues: 2, QueueSize: 64}.Append(nil))
		p.m.Close()
		p.setUp(0)
		p.kick(0)
	}},
	{"a back channel", func(p *peer) {
		p.negotiate()
		p.must(SetBackendReqFD, nil, pair(p.t.(*testing.T))[1])
		p.must(SetStatus, AppendU64(nil, 15))
	}},
	{"a state on its way", func(p *peer) {
		p.negotiate()
		r, w, err := os.Pipe()
		if err != nil {
			p.t.Fatal(err)
		}
		p.t.Cleanup(func() { _, _ = r.Close(), w.Close() })
		p.call(SetDeviceStateFD, StateTransfer{Direction: StateLoad}.Append(nil), int(r.Fd()))
	}},
	{"no owner", func(p *peer) { p.negotiate(); p.setUp(0); p.kick(0); p.must(ResetOwner, nil) }},
}

// begin does what a front-end does first on a connection, in QEMU's order, and uses the
// device with memory and a ring of its own. features are beside the usual ones.
func (p *peer) begin(features uint64) {
	p.t.Helper()
	p.call(GetFeatures, nil)
	p.call(GetProtocolFeatures, nil)
	p.send(SetProtocolFeatures, AppendU64(nil, Offered))
	p.call(GetQueueNum, nil)
	p.call(GetMaxMemSlots, nil)
	back := pair(p.t.(*testing.T))
	p.must(SetBackendReqFD, nil, back[1])
	p.dev.told()
	p.must(SetOwner, nil)
	if got := p.dev.told(); !strings.HasSuffix(got, "reset") {
		p.t.Fatalf("SET_OWNER: the device was told %q", got)
	}
	if v, _ := ParseU64(p.call(GetStatus, nil)); v != 0 {
		p.t.Errorf("status %#x", v)
	}
	if !p.dev.change() {
		p.t.Error("the back channel of the new owner is forgotten")
	}
	p.must(SetFeatures, AppendU64(nil, needed|features|FeatureProtocol))
	for i := range uint32(2) {
		p.must(SetVringCall, VringFile{Index: uint8(i)}.Append(nil), eventFD(p.t))
	}
	p.tells(fmt.Sprintf("features %#x", needed|features))
	// Other memory in the place of the former owner's.
	p.must(AddMemReg, AppendMemReg(nil, desc(0, 1<<19, 0)), memFD(p.t, 1<<19))
	p.must(AddMemReg, AppendMemReg(nil, desc(1<<19, 1<<19, 0)), memFD(p.t, 1<<19))
	p.must(SetVringNum, VringState{0, 32}.Append(nil))
	p.must(SetVringAddr, ringAddr(0).Append(nil))
	p.kick(0)
	p.tells("") // it is enabled by this owner, not by the one before
	p.must(SetVringEnable, VringState{0, 1}.Append(nil))
	base := uint32(0)
	if features&featureRingPacked != 0 {
		base = packedStart
	}
	p.tells(fmt.Sprintf("start 0 at %d", base))
	if r := p.dev.ring(0); r.Size != 32 || r.Log != nil {
		p.t.Errorf("the ring is %+v", r)
	}
	p.must(RemMemReg, AppendMemReg(nil, desc(1<<19, 1<<19, 0)))
	p.dev.told()
}

// A second SET_OWNER on a connection begins the session anew, whatever was there: QEMU's
// device_add after device_del on the same chardev.
func TestSecondOwnerBeginsAnew(t *testing.T) {
	for _, was := range ownerStates {
		t.Run(was.name, func(t *testing.T) {
			p := connect(t, new(fakeDevice))
			was.make(p)
			for range 2 {
				p.begin(0)
				p.begin(featureRingPacked)
			}
			if !p.logged(LevelInfo, "begins again on the same connection") {
				t.Errorf("nothing is said: %q", p.logs)
			}
			if err := p.leave(); err != nil {
				t.Fatal(err)
			}
			if got := p.dev.told(); !strings.HasSuffix(got, "reset") {
				t.Errorf("at the end the device was told %q", got)
			}
		})
	}
}

// The same where the session is kept, with another process after each step.
func TestSecondOwnerBeginsAnewWhenKept(t *testing.T) {
	for _, was := range ownerStates {
		t.Run(was.name, func(t *testing.T) {
			store := &shelf{fds: map[string]int{}}
			p := keptPeer(t, store, new(fakeDevice))
			was.make(p)
			if was.name != "a state on its way" { // ends with the process
				p.over(store, new(fakeDevice))
			}
			p.begin(featureRingPacked)
			p.over(store, new(fakeDevice))
			p.tells(fmt.Sprintf("features %#x; start 0 at %d", needed|featureRingPacked, packedStart))
			// The new owner has negotiated, and another process hears who it is.
			p.send(SetProtocolFeatures, AppendU64(nil, Offered))
			back := pair(t)
			p.must(SetBackendReqFD, nil, back[1])
			p.over(store, new(fakeDevice))
			p.must(SetOwner, nil)
			if !p.dev.change() {
				t.Error("the back channel of the new owner is forgotten")
			}
			p.begin(0)
			if err := p.leave(); err != nil {
				t.Fatal(err)
			}
			if len(store.fds) != 0 {
				t.Errorf("still kept: %v", store.fds)
			}
		})
	}
}

// An owner that negotiates behind SET_OWNER, as others than QEMU do, finds nothing of
// what was agreed on before.
func TestSecondOwnerNegotiatesLater(t *testing.T) {
	p := connect(t, new(fakeDevice))
	p.negotiate()
	back := pair(t)
	p.must(SetBackendReqFD, nil, back[1])
	p.setUp(0)
	p.kick(0)
	p.must(SetOwner, nil) // still acknowledged: that was agreed on when it was sent
	if p.dev.change() {
		t.Error("the former owner is told")
	}
	p.send(GetStatus, nil)
	if err := p.ends(); err == nil || !strings.Contains(err.Error(), "STATUS, which was not negotiated") {
		t.Errorf("the session ended with %v", err)
	}
}

// A ring that is set up by a front-end without memory to share is told of, once, with the
// remedy; one whose memory comes later, or is taken away, is none.
func TestSharedMemoryForgotten(t *testing.T) {
	const words = "share=on"
	p := connect(t, new(fakeDevice))
	p.negotiate()
	ring := func(i uint32) {
		p.must(SetVringNum, VringState{i, 64}.Append(nil))
		p.must(SetVringBase, VringState{i, 0}.Append(nil))
		p.must(SetVringAddr, ringAddr(i).Append(nil))
		p.kick(i)
		p.must(SetVringEnable, VringState{i, 1}.Append(nil))
	}
	ring(0)
	ring(1)
	p.logMu.Lock()
	if n := strings.Count(strings.Join(p.logs, "\n"), words); n != 1 {
		t.Errorf("%d lines:\n%q", n, p.logs)
	}
	p.logMu.Unlock()
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}

	// Memory that is not shared comes without descriptors.
	p = connect(t, new(fakeDevice))
	p.negotiate()
	p.mustNot(words, SetMemTable, AppendMemTable(nil, []guestmem.RegionDesc{desc(0, 1<<20, 0)}))
	p.mustNot(words, AddMemReg, AppendMemReg(nil, desc(0, 1<<20, 0)))
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}

	p = connect(t, new(fakeDevice))
	p.negotiate()
	p.must(AddMemReg, AppendMemReg(nil, desc(0, 1<<20, 0)), memFD(t, 1<<20))
	ring(0)
	p.must(RemMemReg, AppendMemReg(nil, desc(0, 1<<20, 0)))
	ring(1)
	if p.logged(LevelWarn, words) {
		t.Errorf("%q", p.logs)
	}
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}
