package vhostuser

import (
	"errors"
	"math"
	"net"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/handover"
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio/transport"
)

// A field is a number of what encode writes, and values that it cannot have.
type field struct {
	what  string
	width int
	bad   []uint64
}

// keptFields are the numbers of a state with so many pieces, regions and rings, in order.
// reply is how long the answer is.
func keptFields(reply, pieces, regions, rings int) (fields []field) {
	add := func(width int, what string, bad ...uint64) { fields = append(fields, field{what, width, bad}) }
	add(4, "version", 0, stateVersion+1, math.MaxUint32)
	add(4, "bytes of the answer", 1, HeaderSize-1, HeaderSize+MaxPayload+1, 1<<31, math.MaxUint32)
	add(reply, "the answer")
	add(4, "pieces", handover.MaxPieces+1, 1<<31, math.MaxUint32)
	for range pieces {
		add(4, "a piece", 0, HeaderSize+MaxPayload+1, 1<<31, math.MaxUint32)
	}
	add(8, "descriptor of the answer", 1<<40, most)
	add(8, "protocol features", 1<<63, most)
	add(8, "features")
	add(8, "flags", 1<<sessionBits, most)
	add(8, "status", 256, most)
	add(8, "device")
	add(8, "choices")
	add(8, "rings named", transport.MaxQueues+1, most)
	add(8, "queues shown", transport.MaxQueues+1, 1<<16, most)
	add(8, "bytes of the log")
	add(8, "offset of the log")
	for _, what := range []string{"descriptor of the log", "descriptor to call about it", "back channel", "record"} {
		add(8, what, 1<<40, most)
	}
	add(8, "queues of the record", 0, transport.MaxQueues+1, 1<<63, most)
	add(8, "room of the record", 0, inflight.MaxRingSize+1, 1<<16+64, most)
	add(8, "regions", 0, MaxMemSlots+1, 1<<63, most)
	for range regions {
		add(8, "guest address of a region")
		add(8, "size of a region", 0, 1<<62, most)
		add(8, "user address of a region")
		add(8, "offset of a region", 1<<62, most)
		add(8, "descriptor of a region", 0, 1<<40, most)
	}
	add(8, "rings", 0, transport.MaxQueues+1, 1<<63, most)
	for range rings {
		add(8, "size of a ring", inflight.MaxRingSize+1, 1<<16+64, most)
		add(8, "base of a ring", 1<<32, most)
		add(8, "flags of a ring", 1<<ringBits, most)
		add(8, "life")
		for _, what := range []string{"log", "descriptors", "available ring", "used ring"} {
			add(8, what)
		}
		for _, what := range []string{"kick", "call", "error"} {
			add(8, what, 1<<40, most)
		}
	}
	add(8, "the last speaker", 1<<31, most)
	return fields
}

// keptSession is what a session with all that there is has kept, and its state.
func keptSession(t *testing.T) (*shelf, []byte, []field) {
	store := &shelf{fds: map[string]int{}}
	p := keptPeer(t, store, new(fakeDevice))
	p.negotiate()
	p.setUp(0)
	p.kick(0)
	p.must(SetVringCall, VringFile{Index: 0}.Append(nil), eventFD(t))
	p.call(GetFeatures, nil)
	p.rest()
	kept := store.kept(t)
	j, b, err := handover.OpenJournal(kept[handover.JournalName])
	if err != nil {
		t.Fatal(err)
	}
	b = slices.Clone(b)
	reply := int(le.Uint32(b[4:]))
	pieces := int(le.Uint32(b[replyAt+reply:]))
	regions := int(le.Uint64(b[replyAt+reply+4+4*pieces+17*8:]))
	if reply == 0 || pieces == 0 || regions == 0 {
		t.Fatalf("a session with less than there can be: an answer of %d bytes, %d pieces, %d regions", reply, pieces, regions)
	}
	fields := keptFields(reply, pieces, regions, len(p.s.rings))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	delete(kept, handover.JournalName)
	for _, f := range kept {
		_ = f.Close()
	}
	return store, b, fields
}

// decoded is what comes of a state in another process.
func decoded(t *testing.T, store *shelf, b []byte) error {
	near, far := socketPair(t)
	kept := store.kept(t)
	for _, name := range []string{handover.ConnName, handover.JournalName} {
		_ = kept[name].Close()
		delete(kept, name)
	}
	s := NewSession(far, new(fakeDevice), Options{Store: store.keep()})
	s.saver = handover.NewSaver(*store.keep(), nil)
	err := s.decode(b, kept)
	if err == nil {
		err = s.finishes(near)
	}
	s.suspended.Store(true) // it drops nothing
	s.end()
	for _, f := range kept {
		_ = f.Close()
	}
	if err := near.Close(); err != nil {
		t.Error(err)
	}
	return err
}

// finishes has the kernel take the message from conn, where there is none, and send the
// answer, which nobody reads.
func (s *Session) finishes(conn *net.UnixConn) error {
	j, err := handover.NewJournal()
	if err != nil {
		return err
	}
	s.saver.Journal = j
	if err := j.Commit(s.encode(nil)); err != nil {
		return err
	}
	return NewConn(conn).control(func(fd uintptr) error {
		if err := j.TakeMessage(fd, s.saver.Pieces); err != nil && !errors.Is(err, unix.EAGAIN) {
			return err
		}
		if n := len(s.saver.Reply); n > 0 {
			_, err = j.SendAnswer(fd, replyAt, n, -1)
		}
		return err
	})
}

// What a process before has kept may be torn, and the store may be anybody's: whatever
// number stands there, nothing is read, made or mapped for it that cannot be.
func TestKeptNumbersAreChecked(t *testing.T) {
	store, b, fields := keptSession(t)
	if err := decoded(t, store, b); err != nil {
		t.Fatalf("as it was kept: %v", err)
	}
	put := func(at, width int, v uint64) []byte {
		c := slices.Clone(b)
		if width == 4 {
			le.PutUint32(c[at:], uint32(v))
		} else {
			le.PutUint64(c[at:], v)
		}
		return c
	}
	at, refused := 0, 0
	for _, f := range fields {
		if f.width == 4 || f.width == 8 {
			for _, v := range f.bad {
				if err := decoded(t, store, put(at, f.width, v)); err == nil {
					t.Errorf("%s (byte %d): %#x is taken", f.what, at, v)
				} else if strings.Contains(err.Error(), "\n") {
					t.Errorf("%s (byte %d): %#x: more than one line: %v", f.what, at, v, err)
				}
				refused++
			}
			for _, v := range []uint64{0, 1, 1 << 15, 1<<16 - 1, 1 << 16, 1<<31 - 1, 1 << 31, 1 << 32, 1 << 47, 1<<63 - 1, 1 << 63, most} {
				_ = decoded(t, store, put(at, f.width, v)) // which must not panic
			}
		}
		at += f.width
	}
	if at != len(b) {
		t.Errorf("the fields that are known have %d bytes, and the state %d", at, len(b))
	}
	for n := range len(b) - 8 { // an older zvhost does not say who has spoken last
		if decoded(t, store, b[:n]) == nil {
			t.Errorf("the first %d bytes are taken for all %d", n, len(b))
		}
	}
	if decoded(t, store, append(slices.Clone(b), 0)) == nil {
		t.Error("a byte more is taken")
	}
	t.Logf("%d numbers refused, and %d lengths", refused, len(b)-8)
	for _, fd := range store.fds {
		_ = unix.Close(fd)
	}
}
