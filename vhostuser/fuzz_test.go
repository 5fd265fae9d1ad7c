package vhostuser

import (
	"bytes"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/testleak"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// FuzzMessage feeds any bytes as one message to everything that reads them: the
// header, the checks of the table, the parsers and the printer. What a parser
// takes must be written back as the same bytes.
func FuzzMessage(f *testing.F) {
	region := desc(0, pageSize, 0)
	for _, m := range []struct {
		r       Request
		flags   uint32
		payload []byte
	}{
		{GetFeatures, Version, nil},
		{SetFeatures, Version | FlagNeedReply, AppendU64(nil, needed)},
		{SetProtocolFeatures, Version, AppendU64(nil, Offered)},
		{SetMemTable, Version, AppendMemTable(nil, []guestmem.RegionDesc{region, region})},
		{AddMemReg, Version, AppendMemReg(nil, region)},
		{SetVringAddr, Version, ringAddr(1).Append(nil)},
		{SetLogBase, Version, LogArea{64, 4096}.Append(nil)},
		{SetDeviceStateFD, Version, StateTransfer{StateLoad, 0}.Append(nil)},
		{GetVringBase, Version | FlagReply, VringState{1, 2}.Append(nil)},
		{SetVringKick, Version, VringFile{1, true}.Append(nil)},
		{SetConfig, Version, ConfigAccess{Offset: 32, Flags: 1, Data: []byte{1}}.Append(nil)},
		{SetStatus, 0xff, AppendU64(nil, 15)},
		{1234, Version, []byte("?")},
	} {
		f.Add(append(Header{m.r, m.flags, uint32(len(m.payload))}.Append(nil), m.payload...), Offered)
	}
	f.Fuzz(func(t *testing.T, b []byte, negotiated uint64) {
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
		r := h.Request.row()
		if err := m.admit(r, negotiated); err == nil && (r.handle == nil || r.needs&^negotiated != 0) {
			t.Fatalf("%v is admitted", &m)
		}
		back := func(what string, err error, wire []byte, padding ...int) {
			if err != nil {
				return
			}
			p := bytes.Clone(m.Payload)
			for _, at := range padding {
				p[at] = 0
			}
			if !bytes.Equal(wire, p) {
				t.Fatalf("%s %x becomes %x", what, p, wire)
			}
		}
		u, err := ParseU64(m.Payload)
		back("number", err, AppendU64(nil, u))
		state, err := ParseVringState(m.Payload)
		back("vring state", err, state.Append(nil))
		addr, err := ParseVringAddr(m.Payload)
		back("vring addr", err, addr.Append(nil))
		area, err := ParseLogArea(m.Payload)
		back("log area", err, area.Append(nil))
		transfer, err := ParseStateTransfer(m.Payload)
		back("state transfer", err, transfer.Append(nil))
		file, err := ParseVringFile(m.Payload)
		back("vring file", err, file.Append(nil))
		regions, err := ParseMemTable(m.Payload)
		back("memory table", err, AppendMemTable(nil, regions), 4, 5, 6, 7)
		region, err := ParseMemReg(m.Payload)
		back("memory region", err, AppendMemReg(nil, region), 0, 1, 2, 3, 4, 5, 6, 7)
		config, err := ParseConfigAccess(m.Payload)
		back("config access", err, config.Append(nil))
	})
}

// FuzzSession plays a front-end whose messages, descriptors and mistakes are
// read from bytes, in any order. The session may end as it likes, but it must
// end, keep the rules of Device (fakeDevice panics if not), and give everything
// back.
func FuzzSession(f *testing.F) {
	for _, seed := range sessionSeeds() {
		f.Add(seed)
	}
	files := newFuzzFiles(f)
	f.Fuzz(func(t *testing.T, b []byte) { runScript(t, files, b) })
}

// The seeds reach what they are meant to reach: what begins with the third one
// has both rings running.
func TestSessionSeeds(t *testing.T) {
	files := newFuzzFiles(t)
	for i, seed := range sessionSeeds() {
		dev := runScript(t, files, seed)
		if want := i >= 2 && i < 12; (dev.starts >= 2) != want {
			t.Errorf("seed %d: %d starts: %q", i, dev.starts, dev.diary)
		}
	}
}

// runScript runs one session, and returns what its device saw.
func runScript(t *testing.T, files fuzzFiles, b []byte) *fakeDevice {
	before := testleak.Take()
	in := &script{t: t, b: b, files: files, mem: files.mem}
	dev := &fakeDevice{progress: 3}
	switch in.next() {
	case 1:
		dev.refuse = errRefused
	case 2:
		dev.noStart = errors.New("no worker to be had")
	}
	near, far := socketPair(t)
	s := NewSession(far, dev, Options{Trace: true, Log: func(Level, string, ...any) {}})
	done := make(chan error, 1)
	go func() { done <- s.Run() }()
	c := NewConn(near)
	for n := 0; n < 100 && len(in.b) > 0; n++ {
		wire, fds := in.message()
		if c.WriteRaw(wire, fds...) != nil {
			break // the session has had enough
		}
	}
	_ = near.CloseWrite()
	drain(c)
	<-done
	_ = c.Close()
	for _, fd := range in.made {
		_ = unix.Close(fd)
	}
	if dev.running != [2]bool{} || dev.diary[len(dev.diary)-1] != "reset" {
		t.Fatalf("the device was left behind: %q", dev.diary)
	}
	if l := before.WaitFiles(); len(l) > 0 {
		t.Fatal(l)
	}
	return dev
}

// drain reads answers until the session hangs up.
func drain(c *Conn) {
	var m Message
	for c.ReadReply(&m) == nil {
	}
	// Whatever that was, the rest does not matter.
	_, _ = io.Copy(io.Discard, c.uc)
}

const fuzzMemory = 1 << 20

// fuzzFiles are descriptors of several kinds that a front-end might send.
type fuzzFiles struct {
	mem int
	all []int
}

func newFuzzFiles(f testing.TB) fuzzFiles {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		f.Fatal(err)
	}
	near, far := socketPair(f)
	for _, c := range []*net.UnixConn{near, far} {
		f.Cleanup(func() { _ = c.Close() })
	}
	raw, err := near.SyscallConn()
	if err != nil {
		f.Fatal(err)
	}
	var sock int
	if err := raw.Control(func(fd uintptr) { sock = int(fd) }); err != nil {
		f.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		_ = null.Close()
		_ = unix.Close(pipe[0])
		_ = unix.Close(pipe[1])
	})
	mem := memFD(f, fuzzMemory)
	all := []int{mem, eventFD(f), pipe[0], pipe[1], sock, int(null.Fd())}
	inotify, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	all = append(all, inotify)
	udp, uerr := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	all = append(all, udp)
	disk, derr := unix.Open(f.TempDir(), unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	all = append(all, disk)
	if err := errors.Join(err, uerr, derr, unix.Ftruncate(disk, fuzzMemory)); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _, _, _ = unix.Close(inotify), unix.Close(udp), unix.Close(disk) })
	return fuzzFiles{mem, all}
}

// script reads messages from bytes. Zeroes give well-formed ones, so that what
// the fuzzer changes is one mistake at a time.
type script struct {
	t     testing.TB
	b     []byte
	files fuzzFiles
	mem   int   // the file of the memory regions
	made  []int // files made on the way
}

func (s *script) next() byte {
	if len(s.b) == 0 {
		return 0
	}
	v := s.b[0]
	s.b = s.b[1:]
	return v
}

// one picks a value.
func one[T any](s *script, of ...T) T { return of[int(s.next())%len(of)] }

func (s *script) region() guestmem.RegionDesc {
	r := desc(uint64(s.next())*pageSize, uint64(s.next())*pageSize, uint64(s.next())*pageSize)
	switch s.next() {
	case 1:
		r.Size = math.MaxUint64 - pageSize
	case 2:
		r.GuestAddr = math.MaxUint64 - uint64(s.next())*pageSize
	case 3:
		r.UserAddr = math.MaxUint64 - uint64(s.next())*pageSize
	case 4:
		r.MmapOffset = math.MaxUint64 - uint64(s.next())*pageSize
	case 5:
		r.UserAddr += uint64(s.next())
	case 6:
		r.MmapOffset += uint64(s.next())
	}
	return r
}

// message makes the next message, as bytes and descriptors.
func (s *script) message() (wire []byte, fds []int) {
	r := Request(s.next())
	event := s.files.all[1]
	var p []byte
	switch r {
	case SetFeatures:
		p = AppendU64(p, one(s, uint64(needed|FeatureProtocol), needed, fakeFeatures, 0, math.MaxUint64, needed|FeatureProtocol|featureRingPacked, needed|FeatureProtocol|FeatureLogAll))
	case SetProtocolFeatures:
		p = AppendU64(p, one(s, Offered, 0, ProtocolReplyAck, Offered&^ProtocolReplyAck, math.MaxUint64))
	case SetStatus:
		p = AppendU64(p, uint64(s.next())<<one(s, 0, 8))
	case SetVringNum:
		p = VringState{uint32(s.next()), one(s, uint32(64), 1, 32768, 0, 3, 65536, math.MaxUint32)}.Append(p)
	case SetVringBase, GetVringBase:
		p = VringState{uint32(s.next()), one(s, uint32(0), 0xffff, 0x10000, 0x8000_8000)}.Append(p)
	case SetVringEnable:
		p = VringState{uint32(s.next()), uint32(s.next())}.Append(p)
	case SetVringAddr:
		a := ringAddr(uint32(s.next()))
		for _, v := range []*uint64{&a.Desc, &a.Avail, &a.Used} {
			*v += uint64(s.next()) * one(s, uint64(0), 1, pageSize, 1<<55)
		}
		a.Flags = uint32(s.next())
		p = a.Append(p)
	case SetVringKick, SetVringCall, SetVringErr:
		v := VringFile{Index: s.next(), NoFD: s.next() == 1}
		p = v.Append(p)
		if !v.NoFD {
			fds = append(fds, event)
		}
	case SetLogBase:
		p = LogArea{uint64(s.next()) * one(s, uint64(1), 1<<40), uint64(s.next()) * one(s, uint64(1), pageSize, 1<<55)}.Append(p)
		fds = append(fds, s.mem)
	case SetDeviceStateFD:
		p = StateTransfer{uint32(s.next()), uint32(s.next())}.Append(p)
		fds = append(fds, one(s, s.files.all...))
	case SetBackendReqFD:
		fds = append(fds, one(s, s.files.all...))
	case SetLogFD:
		fds = append(fds, event)
	case SetMemTable:
		regions := make([]guestmem.RegionDesc, 1+s.next()%9)
		for i := range regions {
			regions[i] = s.region()
			fds = append(fds, s.mem)
		}
		p = AppendMemTable(p, regions)
	case AddMemReg:
		p = AppendMemReg(p, s.region())
		fds = append(fds, s.mem)
	case RemMemReg:
		p = AppendMemReg(p, s.region())
	case GetConfig, SetConfig:
		c := ConfigAccess{Offset: uint32(s.next()), Flags: uint32(s.next()), Data: make([]byte, 1+int(s.next()))}
		p = c.Append(p)
	}
	h := Header{r, Version, uint32(len(p))}
	// Mistakes, and what is no mistake at all.
	switch s.next() {
	case 0:
	case 1, 2, 3, 4:
		h.Flags |= FlagNeedReply
	case 5:
		h.Flags = uint32(s.next())
	case 6:
		p = p[:min(len(p), int(s.next()))]
		h.Size = uint32(len(p))
	case 7:
		p = append(p, make([]byte, s.next())...)
		h.Size = uint32(len(p))
	case 8:
		h.Size = uint32(s.next()) << one(s, 0, 8, 24)
	case 9:
		h.Request = Request(uint32(s.next()) << one(s, 0, 8, 24))
	case 10:
		fds = fds[:min(len(fds), int(s.next()))]
	case 11:
		for range min(s.next(), scmMaxFD-10) {
			fds = append(fds, one(s, s.files.all...))
		}
	case 12:
		for i := range fds {
			fds[i] = one(s, s.files.all...)
		}
	case 13:
		// From now on memory has another size. (It is another file, because the
		// session may not have mapped the last one yet.)
		fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
		if err == nil {
			err = unix.Ftruncate(fd, int64(s.next())*pageSize)
		}
		if err != nil {
			s.t.Fatal(err)
		}
		s.mem, s.made = fd, append(s.made, fd)
	case 14:
		n := min(int(s.next()), len(s.b))
		p, s.b = s.b[:n:n], s.b[n:]
		h.Size = uint32(n)
	}
	return append(h.Append(nil), p...), fds
}

// sessionSeeds are scripts of front-ends that mostly behave.
func sessionSeeds() [][]byte {
	const ack = 1
	begin := []byte{0,
		byte(GetFeatures), 0, byte(GetProtocolFeatures), 0, byte(SetProtocolFeatures), 0, 0, byte(SetOwner), ack,
		byte(GetQueueNum), 0, byte(GetMaxMemSlots), 0, byte(SetFeatures), 0, ack}
	memory := []byte{byte(SetMemTable), 0, 0, 16, 0, 0, ack}
	ring := func(i byte) []byte {
		return []byte{
			byte(SetVringNum), i, 0, ack, byte(SetVringBase), i, 0, ack,
			byte(SetVringAddr), i, 0, 0, 0, 0, 0, 0, 0, ack, byte(SetVringCall), i, 0, ack, byte(SetVringErr), i, 1, ack,
			byte(SetVringKick), i, 0, ack, byte(SetVringEnable), i, 1, ack}
	}
	running := bytes.Join([][]byte{begin, memory, ring(0), ring(1)}, nil)
	with := func(more ...byte) []byte { return append(bytes.Clone(running), more...) }
	return [][]byte{
		{0}, begin, running,
		with(byte(GetVringBase), 0, 0, 0, byte(GetVringBase), 1, 0, 0, byte(SetStatus), 0, 0, ack),
		with(byte(AddMemReg), 16, 16, 16, 0, ack, byte(RemMemReg), 16, 16, 0, 0, ack, byte(RemMemReg), 0, 16, 0, 0, ack, byte(AddMemReg), 0, 16, 0, 0, ack),
		with(byte(SetMemTable), 2, 0, 1, 0, 0, 1, 1, 1, 0, 2, 8, 9, 0, ack),
		with(byte(SetVringCall), 0, 0, ack, byte(SetVringKick), 1, 0, ack, byte(SetVringErr), 0, 0, ack),
		with(byte(GetConfig), 0, 0, 95, 0, byte(SetConfig), 32, 1, 0, ack, byte(GetStatus), 0, byte(ResetDevice), ack, byte(ResetOwner), ack),
		with(byte(SetVringAddr), 0, 1, 1, 0, 0, 0, 0, 0, ack, byte(SetVringNum), 0, 3, ack, byte(SetFeatures), 3, ack),
		with(byte(SetMemTable), 0, 0, 16, 0, 0, 13, 1, byte(SetVringEnable), 0, 1, 11, 200, 1, 2, 3),
		with(byte(SetLogBase), 64, 0, 0, 0, 0, byte(SetFeatures), 6, ack, byte(SetVringAddr), 0, 0, 0, 0, 0, 0, 0, 1, ack, byte(SetLogFD), ack, byte(SetLogBase), 32, 0, 0, 0, 0),
		bytes.Replace(running, []byte{byte(SetFeatures), 0, ack}, []byte{byte(SetFeatures), 5, ack}, 1), // packed
		append([]byte{1}, running[1:]...), append([]byte{2}, running[1:]...),
	}
}
