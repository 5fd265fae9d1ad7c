package vhostuser

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

func isSame(a, b int) bool { return foreign.NewFD(a).IsSame(foreign.NewFD(b)) }

// systemd's fd store has no open file twice: what is stored again, under whatever
// name, it forgets (service_add_fd_store). A front-end's memory regions are often
// parts of one file, and it may send a file or an eventfd again that we have.
func TestOneFileTwice(t *testing.T) {
	store, dev := &shelf{fds: map[string]int{}, once: true}, new(fakeDevice)
	p := keptPeer(t, store, dev)
	p.negotiate()
	file := memFD(t, 2<<20)
	low, high := desc(0, 1<<20, 0), desc(1<<32, 1<<20, 1<<20)
	regions := AppendMemTable(nil, []guestmem.RegionDesc{low, high})
	call := eventFD(t)
	for range 2 {
		p.must(SetMemTable, regions, file, file)
		for i := range uint32(2) {
			p.must(SetVringNum, VringState{i, 64}.Append(nil))
			p.must(SetVringAddr, ringAddr(i).Append(nil))
			p.must(SetVringEnable, VringState{i, 1}.Append(nil))
			p.must(SetVringCall, VringFile{Index: uint8(i)}.Append(nil), call)
			p.must(SetVringErr, VringFile{Index: uint8(i)}.Append(nil), call)
		}
	}
	for i := range uint32(2) {
		p.kick(i)
	}
	p.dev.told()
	for range 2 { // and what was taken over is known again
		p.over(store, new(fakeDevice))
		p.tells("features 0x100020000; start 0 at 0; start 1 at 0")
		p.must(SetVringCall, VringFile{Index: 0}.Append(nil), call)
		p.must(SetMemTable, regions, file, file)
		p.call(GetFeatures, nil)
		p.dev.told()
	}
	if !isSame(p.dev.ring(1).Call, p.dev.ring(1).Err) {
		t.Error("the call and error descriptors of ring 1 are not what they were")
	}
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
	if len(store.fds) != 0 {
		t.Errorf("still kept: %v", store.fds)
	}
}

// A transfer of the device's state that a restart cuts in two fails when the front-end
// asks, in both directions; it neither hangs nor looks good.
func TestTransferAcrossARestart(t *testing.T) {
	store := &shelf{fds: map[string]int{}, once: true}
	p := keptPeer(t, store, new(fakeDevice))
	p.negotiate()
	begin := func(direction uint32, fd int) {
		t.Helper()
		if v := p.number(SetDeviceStateFD, StateTransfer{direction, 0}.Append(nil), fd); v != stateNoFD {
			t.Fatalf("answer %#x", v)
		}
		p.call(GetFeatures, nil) // what the first message brought is dropped by then
	}
	check := func(want uint64) {
		t.Helper()
		if v := p.number(CheckDeviceState, nil); v != want {
			t.Errorf("answer %#x, want %#x", v, want)
		}
	}
	r, w := pipe(t)
	begin(StateLoad, r)
	if _, err := unix.Write(w, []byte("all that ")); err != nil {
		t.Fatal(err)
	}
	p.over(store, new(fakeDevice))
	check(stateFailed)
	p.tells("features 0x100020000")
	// The front-end's own end is the only one left: nobody holds on to it.
	if err := unix.Close(r); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(w, []byte("it knows")); err != unix.EPIPE {
		t.Errorf("writing the rest: %v", err)
	}
	if err := unix.Dup3(w, r, unix.O_CLOEXEC); err != nil { // its number stays taken
		t.Fatal(err)
	}

	_, w = pipe(t)
	begin(StateSave, w)
	p.over(store, new(fakeDevice))
	check(stateFailed)
	// Another one is good.
	begin(StateSave, w)
	check(0)
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
	if len(store.fds) != 0 {
		t.Errorf("still kept: %v", store.fds)
	}
}

// A front-end that sends and does not read its answers keeps no process from ending,
// neither the one that it has filled the socket of nor the next; and it gets each
// answer once.
func TestFrontEndThatDoesNotRead(t *testing.T) {
	store := &shelf{fds: map[string]int{}, once: true}
	p := keptPeer(t, store, new(fakeDevice))
	p.negotiate()
	const asked = 1000 // more than the socket has room for, in one direction or both
	sent := make(chan error, 1)
	go func() {
		for range asked {
			if err := p.conn.Write(GetFeatures, Version, nil); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	// The session has answered until there was no room any more.
	full := func() {
		for n, was, same := 0, 0, 0; same < 10; was = n {
			time.Sleep(time.Millisecond)
			if err := p.conn.control(func(fd uintptr) (err error) {
				n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if same++; n != was || n == 0 {
				same = 0
			}
		}
	}
	for range 3 {
		full()
		p.over(store, new(fakeDevice))
	}
	for range asked {
		p.answer(GetFeatures)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	p.tells("features 0x100020000")
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}
