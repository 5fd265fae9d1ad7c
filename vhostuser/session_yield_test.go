package vhostuser

import (
	"errors"
	"strings"
	"testing"
)

// A guest whose writes are logged goes on elsewhere when its last ring has been
// stopped: the device lets go of the disk before that is answered. One whose rings
// stop for something else keeps it, and one that stays after all starts again.
func TestSessionYields(t *testing.T) {
	dev := new(fakeDevice)
	p := connect(t, dev)
	p.negotiate()
	start := func() {
		for i := range uint32(2) {
			p.setUp(i)
		}
		p.kick(0)
		p.kick(1)
	}
	stop := func(i uint32) { p.call(GetVringBase, VringState{i, 0}.Append(nil)) }
	start()
	p.tells("features 0x100020000; start 0 at 7; start 1 at 7")
	stop(0)
	stop(1)
	p.tells("stop 0 at 7; stop 1 at 7") // it reboots, perhaps
	start()
	p.tells("start 0 at 7; start 1 at 7")
	p.call(SetLogBase, LogArea{64, 0}.Append(nil), memFD(t, 4096))
	const logged = needed | FeatureProtocol | FeatureLogAll
	p.must(SetFeatures, AppendU64(nil, logged))
	dev.told()
	for i := range uint32(2) {
		p.must(SetVringEnable, VringState{i, 0}.Append(nil))
	}
	p.tells("stop 0 at 7; stop 1 at 7") // as QEMU does before
	stop(1)
	p.tells("")
	stop(0)
	p.tells("yield")
	start() // the migration has failed
	p.tells("start 0 at 7; start 1 at 7")
	stop(0)
	p.tells("stop 0 at 7")
	dev.mu.Lock()
	dev.noRelease = errors.New("the disk is full of holes")
	dev.mu.Unlock()
	p.send(GetVringBase, VringState{1, 0}.Append(nil))
	if err := p.ends(); err == nil || !strings.Contains(err.Error(), "GET_VRING_BASE: the disk is full of holes") {
		t.Errorf("what could not be stored: %v", err)
	}
}

// So does one whose device's state is saved, wherever it stopped.
func TestSessionYieldsItsState(t *testing.T) {
	dev := new(fakeDevice)
	p := connect(t, dev)
	p.negotiate()
	_, w := pipe(t)
	p.number(SetDeviceStateFD, StateTransfer{StateSave, 0}.Append(nil), w)
	p.tells("features 0x100020000; yield")
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}
