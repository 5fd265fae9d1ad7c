package vhostuser

import (
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vhostuser/handover"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// keptPeer is a front-end of a session that is kept.
func keptPeer(t *testing.T, store *shelf, dev *fakeDevice) *peer {
	t.Helper()
	near, far := socketPair(t)
	p := &peer{t: t, conn: NewConn(near), dev: dev, done: make(chan error, 1)}
	p.run(NewSession(far, dev, Options{Store: store.keep()}))
	return p
}

func (s *shelf) keep() *handover.Store { return &handover.Store{Put: s.put, Drop: s.drop} }

// run makes s the session at the other end.
func (p *peer) run(s *Session) {
	p.s = s
	go func() { p.done <- s.Run() }()
}

// over suspends the session, and the next process resumes it with dev.
func (p *peer) over(store *shelf, dev *fakeDevice) {
	p.t.Helper()
	p.rest()
	p.goesOn(store, dev)
}

// A front-end need not wait: each message has its own descriptors, whatever stands
// behind it.
func TestKeptMessagesInARow(t *testing.T) {
	store, dev := &shelf{fds: map[string]int{}}, new(fakeDevice)
	p := keptPeer(t, store, dev)
	p.send(SetProtocolFeatures, AppendU64(nil, Offered))
	p.send(SetOwner, nil)
	p.send(SetFeatures, AppendU64(nil, needed|FeatureProtocol))
	p.send(SetMemTable, AppendMemTable(nil, []guestmem.RegionDesc{desc(0, 1<<20, 0)}), memFD(t, 1<<20))
	for i := range uint32(2) {
		p.send(SetVringNum, VringState{i, 64}.Append(nil))
		p.send(SetVringBase, VringState{i, 7}.Append(nil))
		p.send(SetVringAddr, ringAddr(i).Append(nil))
		p.send(SetVringEnable, VringState{i, 1}.Append(nil))
		p.send(SetVringCall, VringFile{Index: uint8(i)}.Append(nil), eventFD(t))
		p.send(SetVringKick, VringFile{Index: uint8(i)}.Append(nil), eventFD(t))
	}
	p.tells("features 0x100020000; start 0 at 7; start 1 at 7")
	// In parts, the first of which brings the descriptor.
	wire := append(Header{SetVringErr, Version, 8}.Append(nil), VringFile{Index: 1}.Append(nil)...)
	fds := []int{eventFD(t)}
	for _, n := range []int{3, 9, 8} {
		if err := p.conn.WriteRaw(wire[:n], fds...); err != nil {
			t.Fatal(err)
		}
		wire, fds = wire[n:], nil
	}
	p.tells("signals 1")
	// 1 region, 2 calls, 2 kicks, 1 error, the record, the journal and the connection.
	p.call(GetFeatures, nil)
	if n := len(store.fds); n != 9 {
		t.Errorf("%d descriptors are kept: %v", n, store.fds)
	}
	p.over(store, new(fakeDevice))
	p.tells("features 0x100020000; start 0 at 7; start 1 at 7")
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
	if len(store.fds) != 0 {
		t.Errorf("still kept: %v", store.fds)
	}
}

// A message that nobody has acted on is acted on by the next process, and one that
// was is not acted on again: here the answer has not been sent, and the message not
// been taken from the socket.
func TestMessageIsActedOnOnce(t *testing.T) {
	store := &shelf{fds: map[string]int{}}
	p := keptPeer(t, store, new(fakeDevice))
	p.negotiate()
	p.setUp(0)
	p.s.Suspend()
	if err := <-p.done; err != nil {
		t.Fatal(err)
	}
	kept := store.kept(t)

	// The process dies when it has committed, in the middle of a message.
	s, err := ResumeSession(kept, new(fakeDevice), Options{Store: store.keep()})
	if err != nil {
		t.Fatal(err)
	}
	kick := eventFD(t)
	if err := p.conn.Write(SetVringKick, Version|FlagNeedReply, VringFile{Index: 0}.Append(nil), kick); err != nil {
		t.Fatal(err)
	}
	m := new(Message)
	if s.saver.Pieces, err = s.conn.readAhead(m); err != nil {
		t.Fatal(err)
	}
	if err := s.saver.Save(m.Files[0]); err != nil {
		t.Fatal(err)
	}
	s.saver.Committed = false
	if err := s.serve(m); err != nil {
		t.Fatal(err)
	}
	if err := s.commit(); err != nil {
		t.Fatal(err)
	}
	s.suspended.Store(true) // it drops nothing
	s.end()

	dev := new(fakeDevice)
	if s, err = ResumeSession(store.kept(t), dev, Options{Store: store.keep()}); err != nil {
		t.Fatal(err)
	}
	p.dev = dev
	p.run(s)
	if v, err := ParseU64(p.answer(SetVringKick)); err != nil || v != 0 {
		t.Errorf("answered %d, %v", v, err)
	}
	p.tells("features 0x100020000; start 0 at 7")
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// Where there is nothing to go on with, or only a connection.
func TestResumeOfLittle(t *testing.T) {
	store := &shelf{fds: map[string]int{}}
	if err := store.put("state", memFD(t, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := ResumeSession(store.kept(t), new(fakeDevice), Options{Store: store.keep()}); err != handover.ErrNothingStored || len(store.fds) != 0 {
		t.Errorf("%v, still kept: %v", err, store.fds)
	}
	near, far := socketPair(t)
	err := NewConn(far).control(func(fd uintptr) error { return store.put("conn", int(fd)) })
	if err != nil {
		t.Fatal(err)
	}
	_ = far.Close()
	s, err := ResumeSession(store.kept(t), new(fakeDevice), Options{Store: store.keep()})
	if err != nil {
		t.Fatal(err)
	}
	store.drop("conn") // as it is put anew
	p := &peer{t: t, conn: NewConn(near), dev: new(fakeDevice), done: make(chan error, 1)}
	p.run(s)
	p.call(GetFeatures, nil)
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// stateAt is where the state begins in a slot of the journal.
const stateAt = 4096

// A state that another zvhost left, or that is no state, ends the session with a
// reason.
func TestResumeRefuses(t *testing.T) {
	good := &shelf{fds: map[string]int{}}
	p := keptPeer(t, good, new(fakeDevice))
	p.negotiate()
	p.s.Suspend()
	if err := <-p.done; err != nil {
		t.Fatal(err)
	}
	// The layout is that of vhostuser/handover/journal.go: a number of 32 bits at a byte of the
	// newer slot is another one, and the checksum is right, until the test ends.
	other := func(t *testing.T, k handover.Stored, at int, v uint32) {
		const slotBytes = 64 << 10
		mem, err := unix.Mmap(k["state"].Int(), 0, 2*slotBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		s := mem[:slotBytes]
		if le.Uint64(mem[slotBytes+8:]) > le.Uint64(mem[8:]) {
			s = mem[slotBytes:]
		}
		was := le.Uint32(s[at:])
		set := func(v uint32) {
			le.PutUint32(s[at:], v)
			table := crc32.MakeTable(crc32.Castagnoli)
			le.PutUint32(s[20:], crc32.Update(crc32.Checksum(s[:20], table), table, s[stateAt:][:le.Uint32(s[16:])]))
		}
		set(v)
		t.Cleanup(func() {
			set(was)
			if err := unix.Munmap(mem); err != nil {
				t.Error(err)
			}
		})
	}
	// What another process could go on with is left to it.
	for words, spoil := range map[string]func(t *testing.T, k handover.Stored){
		"another version of zvhost": func(t *testing.T, k handover.Stored) {
			_ = k["state"].Close()
			k["state"] = foreign.NewFD(dupOf(t, memFD(t, 1)))
		},
		"is in version 2":       func(t *testing.T, k handover.Stored) { other(t, k, 4, 2) },
		"state is of version 7": func(t *testing.T, k handover.Stored) { other(t, k, stateAt, 7) },
	} {
		t.Run(words, func(t *testing.T) {
			k := good.kept(t)
			spoil(t, k)
			_, err := ResumeSession(k, new(fakeDevice), Options{Store: good.keep()})
			if !errors.As(err, new(handover.UnfitError)) || !strings.Contains(err.Error(), words) {
				t.Errorf("%v, want %q", err, words)
			}
		})
	}
	s, err := ResumeSession(good.kept(t), new(fakeDevice), Options{Store: good.keep()})
	if err != nil {
		t.Fatal(err)
	}
	p.run(s)
	p.call(GetFeatures, nil)
	p.s.Suspend()
	if err := <-p.done; err != nil {
		t.Fatal(err)
	}
	for words, spoil := range map[string]func(k handover.Stored){
		"not one that this zvhost": func(k handover.Stored) {
			_ = k["state"].Close()
			k["state"] = foreign.NewFD(dupOf(t, memFD(t, 2*64<<10+8192)))
		},
		"was not given back": func(k handover.Stored) { _ = k["1"].Close(); delete(k, "1") },
	} {
		k := good.kept(t)
		spoil(k)
		_, err := ResumeSession(k, new(fakeDevice), Options{Store: &handover.Store{Put: good.put, Drop: func(string) {}}})
		if err == nil || !strings.Contains(err.Error(), words) || errors.As(err, new(handover.UnfitError)) {
			t.Errorf("%v, want %q", err, words)
		}
	}
	for name := range closed(good.kept(t)) {
		good.drop(name)
	}
	if err := p.conn.ReadReply(&p.m); err != io.EOF && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the front-end reads %v", err)
	}
	_ = p.conn.Close()
}

// closed closes all of k.
func closed(k handover.Stored) handover.Stored {
	for _, f := range k {
		_ = f.Close()
	}
	return k
}

func dupOf(t *testing.T, fd int) int {
	t.Helper()
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
