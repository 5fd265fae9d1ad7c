package vhostuser

import (
	"errors"
	"io"
	"math"
	"net"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// QEMU's way through a session: negotiation, start, a change of the call
// descriptor, stop, start again, leave.
func TestSessionLife(t *testing.T) {
	dev := new(fakeDevice)
	dev.progress = 5
	p := connect(t, dev)
	if f, _ := ParseU64(p.call(GetFeatures, nil)); f != fakeFeatures|FeatureProtocol|FeatureLogAll {
		t.Fatalf("features %#x", f)
	}
	if f, _ := ParseU64(p.call(GetProtocolFeatures, nil)); f != ProtocolMQ|ProtocolLogShmfd|ProtocolReplyAck|ProtocolBackendReq|ProtocolConfig|ProtocolResetDevice|ProtocolConfigureMemSlots|ProtocolStatus|ProtocolInflightShmfd|ProtocolDeviceState {
		t.Fatalf("protocol features %s", showProtocolMask(f))
	}
	p.send(SetProtocolFeatures, AppendU64(nil, Offered))
	if n, _ := ParseU64(p.call(GetQueueNum, nil)); n != 2 {
		t.Fatalf("%d queues", n)
	}
	if n, _ := ParseU64(p.call(GetMaxMemSlots, nil)); n != MaxMemSlots {
		t.Fatalf("%d memory slots", n)
	}
	p.send(SetOwner, nil)
	p.must(SetVringCall, VringFile{Index: 0}.Append(nil), eventFD(t))
	p.must(SetFeatures, AppendU64(nil, needed|FeatureProtocol))
	p.must(AddMemReg, AppendMemReg(nil, desc(0, 1<<20, 0)), memFD(t, 1<<20))
	for i := range uint32(2) {
		p.must(SetVringNum, VringState{i, 64}.Append(nil))
		p.must(SetVringBase, VringState{i, 0xfffe}.Append(nil))
		p.must(SetVringAddr, ringAddr(i).Append(nil))
		p.kick(i)
	}
	p.tells("features 0x100020000") // disabled rings do not run
	p.must(SetVringEnable, VringState{0, 1}.Append(nil))
	p.must(SetVringEnable, VringState{1, 1}.Append(nil))
	p.tells("start 0 at 65534; start 1 at 65534")
	r := dev.ring(0)
	if r.Size != 64 || r.Features != needed || r.Call < 0 || r.Err != -1 {
		t.Fatalf("ring %+v", r)
	}
	p.must(SetVringEnable, VringState{0, 1}.Append(nil)) // already is
	p.tells("")

	call := eventFD(t)
	p.must(SetVringCall, VringFile{Index: 1}.Append(nil), call)
	p.tells("signals 1")
	p.must(SetVringErr, VringFile{Index: 1}.Append(nil), eventFD(t))
	p.tells("signals 1")

	p.must(SetVringEnable, VringState{0, 0}.Append(nil))
	if b, err := ParseVringState(p.call(GetVringBase, VringState{0, 0}.Append(nil))); err != nil || b != (VringState{0, 3}) {
		t.Fatalf("base %+v, %v", b, err)
	}
	if b, err := ParseVringState(p.call(GetVringBase, VringState{1, 0}.Append(nil))); err != nil || b != (VringState{1, 3}) {
		t.Fatalf("base %+v, %v", b, err)
	}
	p.tells("stop 0 at 3; stop 1 at 3")
	p.must(SetVringEnable, VringState{0, 1}.Append(nil))
	p.tells("") // stopped means stopped: the kick has to come again
	p.kick(0)
	p.tells("start 0 at 3")
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
	if got := dev.told(); got != "stop 0 at 8; reset" {
		t.Fatalf("at the end: %q", got)
	}
	if !p.logged(LevelInfo, "took features 0x140020000; protocol features MQ+LOG_SHMFD+REPLY_ACK+BACKEND_REQ+CONFIG+INFLIGHT_SHMFD+RESET_DEVICE+CONFIGURE_MEM_SLOTS+STATUS+DEVICE_STATE") {
		t.Errorf("nothing is said of the features: %q", p.logs)
	}
	if !p.logged(LevelDebug, "SET_VRING_ENABLE ring 0: 1") || !p.logged(LevelDebug, "answer: GET_QUEUE_NUM 2") {
		t.Errorf("messages are not traced: %q", p.logs)
	}
}

// "Ring states": without VHOST_USER_F_PROTOCOL_FEATURES rings are enabled from
// the start; the order of the other messages does not matter.
func TestSessionWithoutProtocolFeatures(t *testing.T) {
	dev := new(fakeDevice)
	p := connect(t, dev)
	p.send(SetOwner, nil)
	p.send(SetVringKick, VringFile{Index: 0}.Append(nil), eventFD(t))
	p.send(SetVringAddr, ringAddr(0).Append(nil))
	p.send(SetMemTable, AppendMemTable(nil, []guestmem.RegionDesc{desc(0, 1<<20, 0)}), memFD(t, 1<<20))
	p.send(SetVringNum, VringState{0, 2}.Append(nil))
	p.tells("")
	p.send(SetFeatures, AppendU64(nil, needed))
	p.tells("features 0x100020000; start 0 at 0")
	p.send(SetFeatures, AppendU64(nil, needed)) // no change, no trouble
	p.tells("")
	p.send(ResetOwner, nil)
	p.tells("stop 0 at 0")
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// A session ends when its owner says so, wherever it is.
func TestSessionClose(t *testing.T) {
	dev := new(fakeDevice)
	p := connect(t, dev)
	p.negotiate()
	p.setUp(1)
	p.kick(1)
	p.s.Close()
	p.s.Close()
	if err := p.ends(); err != nil {
		t.Fatal(err)
	}
	if got := dev.told(); got != "features 0x100020000; start 1 at 7; stop 1 at 7; reset" {
		t.Fatalf("the device was told %q", got)
	}

	// A front-end that never reads its answers blocks the session's sends.
	p = connect(t, dev)
	filled := make(chan struct{})
	go func() {
		defer close(filled)
		for p.conn.Write(GetFeatures, Version, nil) == nil {
		}
	}()
	p.answer(GetFeatures) // one, and from here on nobody reads
	p.s.Close()
	if err := <-p.done; err != nil {
		t.Fatal(err)
	}
	_ = p.conn.Close()
	<-filled

	// Closed before it runs.
	near, far := socketPair(t)
	defer near.Close()
	s := NewSession(far, dev, Options{})
	s.Close()
	if err := s.Run(); err != nil {
		t.Fatal(err)
	}
}

func TestNewSessionPanics(t *testing.T) {
	near, far := socketPair(t)
	defer near.Close()
	defer far.Close()
	defer func() {
		if recover() == nil {
			t.Error("a device without queues was taken")
		}
	}()
	NewSession(far, noQueues{new(fakeDevice)}, Options{})
}

type noQueues struct{ *fakeDevice }

func (noQueues) Queues() int { return 0 }

// Warnings are bounded.
func TestSessionWarnings(t *testing.T) {
	p := connect(t, new(fakeDevice))
	p.must(SetProtocolFeatures, AppendU64(nil, Offered))
	for range 5 * maxWarnings {
		p.mustNot("no such message", 99, nil)
	}
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
	warned := 0
	for _, l := range p.logs {
		if strings.HasPrefix(l, "2 ") {
			warned++
		}
	}
	if warned != maxWarnings+1 {
		t.Errorf("%d warnings", warned)
	}
}

var errRefused = errors.New("this disk needs VIRTIO_BLK_F_ZONED")

func TestSessionDeviceRefusesFeatures(t *testing.T) {
	// With REPLY_ACK the front-end hears of it, and FEATURES_OK is not reported.
	dev := &fakeDevice{refuse: errRefused}
	p := connect(t, dev)
	p.must(SetProtocolFeatures, AppendU64(nil, Offered))
	p.mustNot(errRefused.Error(), SetFeatures, AppendU64(nil, 1<<32))
	p.must(SetStatus, AppendU64(nil, 11))
	if v, _ := ParseU64(p.call(GetStatus, nil)); v != 3 {
		t.Fatalf("status %#x", v)
	}
	p.setUp(0)
	p.kick(0)
	p.tells("features 0x100000000") // and the ring does not start
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}

	// Without, the front-end goes on as if nothing were, FEATURES_OK is withheld,
	// and the device is the one that says no.
	p = connect(t, dev)
	p.must(SetProtocolFeatures, AppendU64(nil, Offered))
	p.send(SetFeatures, AppendU64(nil, 1<<32|FeatureProtocol))
	if !p.ask(SetStatus, AppendU64(nil, 11)) || !p.logged(LevelInfo, errRefused.Error()+", so it gets no disk; a PC's firmware does so once at each boot") || p.logged(LevelWarn, "refused SET_FEATURES") {
		t.Fatalf("log %q", p.logs)
	}
	// A second one is no firmware's.
	p.send(SetFeatures, AppendU64(nil, 1<<32|FeatureProtocol))
	if !p.ask(SetStatus, AppendU64(nil, 11)) || !p.logged(LevelWarn, "refused SET_FEATURES 0x140000000: "+errRefused.Error()) {
		t.Fatalf("log %q", p.logs)
	}
	if p.logged(LevelWarn, "SET_STATUS") || !p.logged(LevelDebug, "SET_STATUS 0xb: FEATURES_OK is not taken") {
		t.Errorf("one refusal is worth one warning: %q", p.logs)
	}
	if v, _ := ParseU64(p.call(GetStatus, nil)); v != 3 {
		t.Fatalf("status %#x", v)
	}
	p.setUp(0)
	p.kick(0)
	p.send(SetFeatures, AppendU64(nil, 1<<32|FeatureProtocol)) // the same once more
	dev.told()
	p.tells("")
	p.mustNot("cannot change while ring 0 runs", SetFeatures, AppendU64(nil, 1<<32|FeatureProtocol))
	// Stopped and asked again, the device is asked again.
	dev.mu.Lock()
	dev.refuse = nil
	dev.mu.Unlock()
	p.call(GetVringBase, VringState{0, 0}.Append(nil))
	p.must(SetFeatures, AppendU64(nil, 1<<32|FeatureProtocol))
	p.must(SetStatus, AppendU64(nil, 11))
	if v, _ := ParseU64(p.call(GetStatus, nil)); v != 11 {
		t.Fatalf("status %#x", v)
	}
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

func TestSessionStatus(t *testing.T) {
	dev := new(fakeDevice)
	p := connect(t, dev)
	p.negotiate()
	status := func() uint64 {
		v, err := ParseU64(p.call(GetStatus, nil))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if v := status(); v != 0 {
		t.Fatalf("status %#x at the beginning", v)
	}
	p.must(SetStatus, AppendU64(nil, 15))
	if v := status(); v != 15 {
		t.Fatalf("status %#x", v)
	}
	p.setUp(0)
	p.kick(0)
	p.tells("features 0x100020000; start 0 at 7")
	// DEVICE_NEEDS_RESET is the device's to say, and not what the front-end writes back.
	dev.needsReset.Store(true)
	if v := status(); v != 64|15 {
		t.Fatalf("status %#x of a device that needs a reset", v)
	}
	p.must(SetStatus, AppendU64(nil, 64|15))
	dev.needsReset.Store(false)
	if v := status(); v != 15 {
		t.Fatalf("status %#x of a device that needs no reset any more", v)
	}
	p.must(SetStatus, AppendU64(nil, 0))
	p.tells("stop 0 at 7; reset")
	if v := status(); v != 0 {
		t.Fatalf("status %#x after a reset", v)
	}
	// FEATURES_OK needs features that were agreed on since.
	p.must(SetStatus, AppendU64(nil, 8|2|1))
	if v := status(); v != 3 {
		t.Fatalf("status %#x without features", v)
	}
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// After a reset everything begins again, but memory and protocol features stay:
// QEMU sends neither twice.
func TestSessionReset(t *testing.T) {
	dev := new(fakeDevice)
	dev.progress = 3
	p := connect(t, dev)
	p.negotiate()
	p.setUp(0)
	p.kick(0)
	p.must(SetVringCall, VringFile{Index: 0}.Append(nil), eventFD(t))
	p.tells("features 0x100020000; start 0 at 7; signals 0")
	p.must(ResetDevice, nil)
	p.tells("stop 0 at 10; reset")
	if b, _ := ParseVringState(p.call(GetVringBase, VringState{0, 0}.Append(nil))); b.Num != 0 {
		t.Fatalf("base %d after a reset", b.Num)
	}
	p.must(SetFeatures, AppendU64(nil, needed|FeatureProtocol))
	p.must(SetVringNum, VringState{0, 16}.Append(nil))
	p.must(SetVringAddr, ringAddr(0).Append(nil))
	p.must(SetVringEnable, VringState{0, 1}.Append(nil))
	p.kick(0)
	p.tells("features 0x100020000; start 0 at 0")
	if dev.ring(0).Call < 0 {
		t.Error("the call descriptor is gone")
	}
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

func TestSessionConfig(t *testing.T) {
	dev := new(fakeDevice)
	for i := range dev.config {
		dev.config[i] = byte(i)
	}
	p := connect(t, dev)
	p.negotiate()
	for _, c := range []struct{ off, n uint32 }{{0, 96}, {0, 1}, {95, 1}, {32, 1}, {60, 36}, {17, 50}} {
		a, err := ParseConfigAccess(p.call(GetConfig, ConfigAccess{Offset: c.off, Data: make([]byte, c.n)}.Append(nil)))
		if err != nil || a.Offset != c.off || uint32(len(a.Data)) != c.n || a.Data[0] != byte(c.off) || a.Data[c.n-1] != byte(c.off+c.n-1) {
			t.Errorf("%d bytes at %d: %+v, %v", c.n, c.off, a, err)
		}
	}
	// An answer without payload is how the protocol spells an error.
	for _, bad := range [][]byte{
		ConfigAccess{Offset: 0, Data: make([]byte, 97)}.Append(nil),
		ConfigAccess{Offset: 96, Data: make([]byte, 1)}.Append(nil),
		ConfigAccess{Offset: math.MaxUint32, Data: make([]byte, 96)}.Append(nil),
		ConfigAccess{Data: nil}.Append(nil),
		nil,
	} {
		if a := p.call(GetConfig, bad); len(a) != 0 {
			t.Errorf("%x was answered with %x", bad, a)
		}
	}
	// QEMU's generic device sends the whole space.
	p.must(SetConfig, ConfigAccess{Data: make([]byte, 96)}.Append(nil))
	p.must(SetConfig, ConfigAccess{Offset: 32, Flags: ConfigMigration, Data: []byte{1}}.Append(nil))
	p.tells("features 0x100020000; config 0+96; config 32+1")
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// A device that cannot start a queue.
func TestSessionStartFails(t *testing.T) {
	dev := &fakeDevice{noStart: errors.New("no worker to be had")}
	p := connect(t, dev)
	p.negotiate()
	p.setUp(0)
	p.mustNot("ring 0 does not start: no worker to be had", SetVringKick, VringFile{Index: 0}.Append(nil), eventFD(t))
	p.tells("features 0x100020000; no start 0")
	dev.mu.Lock()
	dev.noStart = nil
	dev.mu.Unlock()
	p.must(SetVringEnable, VringState{0, 1}.Append(nil))
	p.tells("start 0 at 7")
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// One front-end after the other on the same device, some of them rude.
func TestSessionsInTurn(t *testing.T) {
	dev := new(fakeDevice)
	for range 3 {
		p := connect(t, dev)
		p.negotiate()
		p.setUp(0)
		p.setUp(1)
		p.kick(0)
		p.kick(1)
		if err := p.conn.WriteRaw([]byte{1, 2, 3, 4, 5}); err != nil {
			t.Fatal(err)
		}
		if err := p.leave(); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
			t.Fatal(err)
		}
		if got := dev.told(); !strings.HasSuffix(got, "; reset") {
			t.Fatalf("the device was told %q", got)
		}
	}
	if dev.starts == 0 {
		t.Error("no queue ever started")
	}
}
