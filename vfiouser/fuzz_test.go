package vfiouser

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/testleak"
)

// FuzzMessage feeds any bytes as one message to everything that reads them: the header, the
// checks of the table, the parsers and the printer. What a parser accepts must be written back
// as the same bytes.
func FuzzMessage(f *testing.F) {
	for _, m := range []struct {
		c       Command
		flags   uint32
		payload []byte
	}{
		{Version, 0, VersionData{0, 1, []byte(`{"capabilities":{"max_msg_fds":16,"pgsizes":4096}}` + "\x00")}.Append(nil)},
		{DMAMap, 0, mapping(0x1000, 0x1000, 0)},
		{DMAUnmap, 0, unmapping(0x1000, 0x1000)},
		{GetRegionInfo, FlagReply, RegionInfo{32, 3, 7, 0, 4096, 0}.Append(nil)},
		{SetIRQs, 0, irqSet(IRQDataBool|IRQTrigger, 2, 0, 2, 1, 0)},
		{RegionWrite, FlagNoReply, Access{0, 0, 1, []byte{1}}.Append(nil)},
		{Reset, FlagReply | FlagError, nil},
		{1234, 0xff, []byte("?")},
	} {
		f.Add(append(Header{1, m.c, uint32(HeaderSize + len(m.payload)), m.flags, 0}.Append(nil), m.payload...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < HeaderSize {
			return
		}
		h, err := ParseHeader(b[:HeaderSize])
		if err != nil {
			t.Fatal(err)
		}
		if got := h.Append(nil); !bytes.Equal(got, b[:HeaderSize]) {
			t.Fatalf("header %x becomes %x", b[:HeaderSize], got)
		}
		m := Message{Header: h, Payload: b[HeaderSize:]}
		if m.String() == "" {
			t.Fatal("a message without a word")
		}
		_, _ = h.check(false), h.check(true)
		r := h.Command.row()
		if err := m.admit(&r); err == nil && r.handle == nil {
			t.Fatalf("%v is admitted", &m)
		}
		back := func(what string, err error, wire []byte) {
			if err == nil && !bytes.Equal(wire, m.Payload) {
				t.Fatalf("%s %x becomes %x", what, m.Payload, wire)
			}
		}
		v, err := ParseVersion(m.Payload)
		back("version", err, v.Append(nil))
		if err == nil {
			if c, err := parseCapabilities(v.Data); err == nil {
				if got := appendCapabilities(nil, c, len(v.Data)); len(got) > len(v.Data) {
					t.Fatalf("%q gets the longer reply %q", v.Data, got)
				}
			}
		}
		d, err := ParseMapping(m.Payload)
		back("mapping", err, d.Append(nil))
		u, err := ParseUnmapping(m.Payload)
		back("unmapping", err, u.Append(nil))
		i, err := ParseDeviceInfo(m.Payload)
		back("device info", err, i.Append(nil))
		g, err := ParseRegionInfo(m.Payload)
		back("region info", err, g.Append(nil))
		o, err := ParseRegionIOFDs(m.Payload)
		back("region io fds", err, o.Append(nil))
		q, err := ParseIRQInfo(m.Payload)
		back("irq info", err, q.Append(nil))
		s, err := ParseIRQSet(m.Payload)
		back("irq set", err, s.Append(nil))
		a, err := ParseAccess(m.Payload)
		back("access", err, a.Append(nil))
	})
}

// A script is a client's messages, read from bytes.
type script struct {
	b   []byte
	fds []int // that may come along
}

func (s *script) next() byte {
	if len(s.b) == 0 {
		return 0
	}
	v := s.b[0]
	s.b = s.b[1:]
	return v
}

// message is the next one: a plausible command with some fields from the script, or any bytes.
func (s *script) message() (wire []byte, fds []int) {
	kind := s.next()
	if kind >= 0xf0 { // raw bytes, which may be no message
		n := min(int(s.next()), len(s.b))
		wire, s.b = s.b[:n], s.b[n:]
		return wire, nil
	}
	c := Command(kind % 20)
	flags := [...]uint32{0, 0, 0, FlagNoReply}[s.next()%4]
	at := uint64(s.next())
	var p []byte
	switch c {
	case Version:
		p = VersionData{0, uint16(at % 3), []byte(`{"capabilities":{"max_msg_fds":8,"max_dma_maps":100}}` + "\x00")}.Append(nil)
	case DMAMap:
		p = Mapping{32, uint32(at>>6) & 3, at & 3 << 12, at << 12, uint64(s.next()) << 10}.Append(nil)
	case DMAUnmap:
		p = Unmapping{24, uint32(s.next() & 2), at << 12, uint64(s.next()) << 10}.Append(nil)
	case GetInfo:
		p = DeviceInfo{Argsz: uint32(at)}.Append(nil)
	case GetRegionInfo:
		p = RegionInfo{Argsz: 32, Index: uint32(at)}.Append(nil)
	case GetRegionIOFDs:
		p = RegionIOFDs{Argsz: 16, Index: uint32(at)}.Append(nil)
	case GetIRQInfo:
		p = IRQInfo{Argsz: 16, Index: uint32(at)}.Append(nil)
	case SetIRQs:
		flags := uint32(s.next()) & 0x3f
		n := uint32(s.next() % 7)
		var data []byte
		if flags&IRQDataBool != 0 {
			for range n {
				data = append(data, s.next()&1)
			}
		}
		p = irqSet(flags, uint32(at%5), uint32(at>>4), n, data...)
	case RegionRead:
		p = Access{at, uint32(s.next() % 5), uint32(s.next()), nil}.Append(nil)
	case RegionWrite:
		n := s.next() % 9
		p = Access{at, uint32(s.next() % 5), uint32(n), make([]byte, n)}.Append(nil)
	}
	for n := s.next(); n > 0xc0 && len(fds) < 20; n -= 7 { // most come without
		fds = append(fds, s.fds[int(n)%len(s.fds)])
	}
	if cut := s.next(); cut >= 0xf8 { // a wrong size
		p = append(p, make([]byte, cut&7)...)
	}
	return append(Header{uint16(at), c, uint32(HeaderSize + len(p)), flags, 0}.Append(nil), p...), fds
}

// FuzzSession plays a client whose messages, descriptors and mistakes are read from bytes, in
// any order. The session may end as it likes, but it must end, keep the rules of Device
// (fakeDevice panics if not), and release everything.
func FuzzSession(f *testing.F) {
	fds := []int{memfd(f, 1<<20), eventfd(f), eventfd(f)}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = unix.Close(pipe[0]); _ = unix.Close(pipe[1]) })
	fds = append(fds, pipe[1])
	for _, seed := range sessionSeeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := testleak.Take()
		near, far := socketPair(t)
		dev := newFakeOf(4096)
		s, err := NewSession(far, dev, Options{Trace: true, Log: func(Level, string, ...any) {}})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Run() }()
		c, err := NewConn(near)
		if err != nil {
			t.Fatal(err)
		}
		in := &script{b: b, fds: fds}
		for n := 0; n < 60 && len(in.b) > 0; n++ {
			wire, fds := in.message()
			if len(wire) == 0 {
				continue
			}
			if c.WriteRaw(wire, fds...) != nil {
				break // the session has ended
			}
		}
		_ = near.CloseWrite()
		var m Message
		for c.ReadReply(&m) == nil {
		}
		<-done
		_ = c.Close()
		if !dev.gone || len(dev.files) > 0 || len(dev.maps) > 0 {
			t.Fatalf("the device was left with %v", dev.maps)
		}
		if leaks := before.Wait(); len(leaks) > 0 {
			t.Fatal(leaks)
		}
	})
}

// sessionSeeds reach each command: a version, then one or more of each. TestSessionSeeds shows it.
var sessionSeeds = []string{
	"",
	"\x01\x00\x01\x00\x00",
	"\x01\x00\x01\x00\x00" + "\x02\x00\xc1\x08\xc8\x00" + "\x02\x00\xc2\x04\x00\x00" + "\x03\x00\xc1\x00\x08\x00\x00" + "\x03\x00\x00\x02\x00\x00\x00",
	"\x01\x00\x01\x00\x00" + "\x04\x00\x10\x00\x00" + "\x05\x00\x01\x00\x00" + "\x06\x00\x01\x00\x00" + "\x07\x00\x01\x00\x00",
	"\x01\x00\x01\x00\x00" + "\x08\x00\x00\x24\x01\xc1\x00" + "\x08\x00\x01\x21\x02\x00\x00" + "\x08\x00\x01\x0a\x02\x01\x01\x00\x00" + "\x08\x00\x01\x12\x02\x01\x01\x00\x00" + "\x08\x00\x00\x21\x00\x00\x00",
	"\x01\x00\x01\x00\x00" + "\x09\x00\x04\x00\x20\x00\x00" + "\x0a\x03\x04\x04\x00\x00\x00" + "\x0a\x00\x04\x04\x00\x00\x00" + "\x0d\x00\x00\x00\x00" + "\x0f\x00\x00\x00\x00",
	"\x01\x00\x01\x00\x00" + "\x02\x00\xc1\x08\xca\x00" + "\x08\x00\x00\x24\x02\xff\x00" + "\xf0\x10\x01\x00\x04\x00\x0f\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
}

// The seeds reach what they are meant to reach.
func TestSessionSeeds(t *testing.T) {
	fds := []int{memfd(t, 1<<20), eventfd(t)}
	reached := map[Command]bool{}
	for i, seed := range sessionSeeds {
		p := connect(t, newFakeOf(4096))
		in := &script{b: []byte(seed), fds: fds}
		for len(in.b) > 0 {
			wire, fds := in.message()
			if err := p.conn.WriteRaw(wire, fds...); err != nil {
				t.Fatal(err)
			}
		}
		_ = p.uc.CloseWrite()
		var m Message
		for p.conn.ReadReply(&m) == nil {
			if m.Flags&FlagError == 0 {
				reached[m.Command] = true
			}
		}
		bad := i == len(sessionSeeds)-1 // the last one ends with a wrong size
		if err := p.leave(); bad != (err != nil) {
			t.Errorf("%q: %v", seed, err)
		}
	}
	for c := range Command(numCommands) {
		if c.row().handle != nil && !reached[c] {
			t.Errorf("no seed reaches %v", c)
		}
	}
}
