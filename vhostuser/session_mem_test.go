package vhostuser

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/loopdev"
	"github.com/zvhost/zvhost/internal/testleak"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// Memory in a file of a disk is taken, and the log says once what may come of it.
func TestMemoryOnADisk(t *testing.T) {
	dev := loopdev.Attach(t, loopdev.File(t, 64<<20), loopdev.Options{})
	dev.FileSystem()
	file, err := os.Create(dev.Mount(0) + "/memory")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	const words = "while that file system is frozen"
	p := connect(t, new(fakeDevice))
	p.negotiate()
	p.must(AddMemReg, AppendMemReg(nil, desc(0, 1<<20, 0)), memFD(t, 1<<20))
	if p.logged(LevelWarn, words) {
		t.Errorf("of a memfd: %q", p.logs)
	}
	p.must(AddMemReg, AppendMemReg(nil, desc(1<<20, pageSize, 0)), int(file.Fd()))
	p.must(AddMemReg, AppendMemReg(nil, desc(2<<20, pageSize, pageSize)), int(file.Fd()))
	if !p.logged(LevelWarn, "of ext4, which keeps it on a disk: "+words) {
		t.Errorf("of a file of ext4: %q", p.logs)
	}
	said := 0
	for _, l := range p.logs {
		said += strings.Count(l, words)
	}
	if said != 1 {
		t.Errorf("said %d times: %q", said, p.logs)
	}
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// Memory comes and goes while rings run; each goes on where it was.
func TestSessionMemoryWhileRunning(t *testing.T) {
	dev := new(fakeDevice)
	dev.progress = 1
	p := connect(t, dev)
	p.negotiate()
	p.setUp(0)
	p.kick(0)
	p.tells("features 0x100020000; start 0 at 7")

	mem := memFD(t, 4<<20)
	p.must(AddMemReg, AppendMemReg(nil, desc(1<<32, 1<<20, 1<<20)), mem)
	p.tells("stop 0 at 8; start 0 at 8")
	if _, err := dev.ring(0).Mem.Bytes(1<<32+1<<20-1, 1); err != nil {
		t.Error(err)
	}
	// The protocol lets the descriptor of a removal be, and says to close it.
	p.must(RemMemReg, AppendMemReg(nil, desc(1<<32, 1<<20, 0)), mem)
	p.tells("stop 0 at 9; start 0 at 9")
	if _, err := dev.ring(0).Mem.Bytes(1<<32, 1); err == nil {
		t.Error("a removed region is still there")
	}
	// The whole table at once, in other pieces.
	p.must(SetMemTable, AppendMemTable(nil, []guestmem.RegionDesc{desc(0, 8*pageSize, 0), desc(8*pageSize, 1<<20, 8*pageSize)}), mem, mem)
	p.tells("stop 0 at 10; start 0 at 10")

	// QEMU replaces a region by removing it and adding its parts; the ring waits.
	p.must(RemMemReg, AppendMemReg(nil, desc(0, 8*pageSize, 0)))
	p.tells("stop 0 at 11")
	if !p.logged(LevelWarn, "ring 0: its descriptor table") {
		t.Errorf("nothing is said of the ring without memory: %q", p.logs)
	}
	p.must(SetVringCall, VringFile{Index: 0}.Append(nil), eventFD(t))
	p.must(RemMemReg, AppendMemReg(nil, desc(8*pageSize, 1<<20, 0))) // now there is none at all
	p.must(AddMemReg, AppendMemReg(nil, desc(4*pageSize, 4*pageSize, 0)), mem)
	p.tells("")
	p.must(AddMemReg, AppendMemReg(nil, desc(0, 4*pageSize, 0)), mem)
	p.tells("start 0 at 11")

	// What cannot be mapped leaves everything as it is, and running.
	p.mustNot("overlap", AddMemReg, AppendMemReg(nil, desc(pageSize, pageSize, 0)), mem)
	p.mustNot("file", SetMemTable, AppendMemTable(nil, []guestmem.RegionDesc{desc(0, 1<<30, 0)}), mem)
	p.tells("")
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// A table that takes a running ring's memory away is refused; the other rings
// go on, and that ring too as soon as it can.
func TestSessionTableWithoutRing(t *testing.T) {
	dev := new(fakeDevice)
	p := connect(t, dev)
	p.negotiate()
	p.setUp(0)
	p.setUp(1)
	p.kick(0)
	p.kick(1)
	mem := memFD(t, 1<<20)
	p.dev.told()
	p.mustNot("ring 0: its descriptor table", SetMemTable, AppendMemTable(nil, []guestmem.RegionDesc{desc(pageSize, pageSize, 0)}), mem)
	p.tells("stop 0 at 7; stop 1 at 7; start 1 at 7")
	p.must(SetMemTable, AppendMemTable(nil, []guestmem.RegionDesc{desc(0, 1<<20, 0)}), mem)
	p.tells("stop 1 at 7; start 0 at 7; start 1 at 7")
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// The event index at the end of each ring counts only when it was negotiated.
func TestSessionRingBounds(t *testing.T) {
	for _, c := range []struct {
		features uint64
		used     uint64 // distance of a ring of 2 from the end of memory
		ok       bool
	}{
		{needed, 20, true},
		{needed, 16, false},
		{needed | featureEventIdx, 20, false},
		{needed | featureEventIdx, 24, true},
	} {
		p := connect(t, new(fakeDevice))
		p.must(SetProtocolFeatures, AppendU64(nil, Offered))
		p.must(SetFeatures, AppendU64(nil, c.features))
		p.setUp(0)
		p.must(SetVringNum, VringState{0, 2}.Append(nil))
		p.kick(0)
		a := ringAddr(0)
		a.Used = userOffset + 1<<20 - c.used
		if got := p.ask(SetVringAddr, a.Append(nil)); got != c.ok {
			t.Errorf("%+v: taken %v", c, got)
		}
		if err := p.leave(); err != nil {
			t.Fatal(err)
		}
	}
}

// All memory slots can be used, one more is refused, and all is given back.
func TestSessionMemSlots(t *testing.T) {
	mem := memFD(t, pageSize)
	before := testleak.Take()
	p := connect(t, new(fakeDevice))
	p.negotiate()
	for i := range uint64(MaxMemSlots) {
		p.must(AddMemReg, AppendMemReg(nil, desc(i*pageSize, pageSize, 0)), mem)
	}
	p.mustNot("all 509 memory slots are in use", AddMemReg, AppendMemReg(nil, desc(1<<40, pageSize, 0)), mem)
	for i := range uint64(MaxMemSlots) {
		p.must(RemMemReg, AppendMemReg(nil, desc((i*7%MaxMemSlots)*pageSize, pageSize, 0)), mem)
	}
	p.must(AddMemReg, AppendMemReg(nil, desc(0, pageSize, 0)), mem)
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
	if n := p.s.state.numRegions; n != 1 {
		t.Errorf("%d regions in the state", n)
	}
	if l := before.WaitFiles(); len(l) > 0 {
		t.Fatal(l)
	}
}

// A table that leaves several rings without memory: the first is the answer,
// the others are in the log.
func TestSessionTableWithoutRings(t *testing.T) {
	p := connect(t, new(fakeDevice))
	p.negotiate()
	p.setUp(0)
	p.setUp(1)
	p.kick(0)
	p.kick(1)
	p.mustNot("ring 0: its descriptor table", SetMemTable, AppendMemTable(nil, []guestmem.RegionDesc{desc(1<<30, pageSize, 0)}), memFD(t, 1<<20))
	if !p.logged(LevelWarn, "ring 1: its descriptor table") {
		t.Errorf("log %q", p.logs)
	}
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// Pipes are for platforms without eventfds: one that somebody fills, or whose lock he
// holds, can block both ends.
func TestSessionPipes(t *testing.T) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	p := connect(t, new(fakeDevice))
	p.negotiate()
	p.setUp(0)
	p.mustNot("a pipe: it has to be an eventfd", SetVringKick, VringFile{Index: 0}.Append(nil), pipe[0])
	p.mustNot("a pipe: it has to be an eventfd", SetVringCall, VringFile{Index: 0}.Append(nil), pipe[1])
	p.mustNot("a pipe: it has to be an eventfd", SetVringErr, VringFile{Index: 0}.Append(nil), pipe[1])
	p.tells("features 0x100020000")
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// Each replaced descriptor is closed, whatever it was.
func TestSessionReplacesDescriptors(t *testing.T) {
	event := eventFD(t)
	p := connect(t, new(fakeDevice))
	p.negotiate()
	p.setUp(0)
	p.kick(0)
	p.must(SetVringCall, VringFile{Index: 0}.Append(nil), event)
	p.must(SetVringErr, VringFile{Index: 0}.Append(nil), event)
	p.must(SetVringKick, VringFile{Index: 0}.Append(nil), event)
	// Only this eventfd's: others of the process are closed in the background.
	count := func() int { return descriptorsOf(t, event) }
	n := count()
	for range 20 {
		p.must(SetVringKick, VringFile{Index: 0}.Append(nil), event)
		p.must(SetVringCall, VringFile{Index: 0}.Append(nil), event)
		p.must(SetVringErr, VringFile{Index: 0}.Append(nil), event)
	}
	if now := count(); now != n {
		t.Errorf("%d descriptors instead of %d", now, n)
	}
	p.must(SetVringCall, VringFile{Index: 0, NoFD: true}.Append(nil))
	p.must(SetVringErr, VringFile{Index: 0, NoFD: true}.Append(nil))
	if now := count(); now != n-2 {
		t.Errorf("%d descriptors instead of %d", now, n-2)
	}
	if r := p.dev.ring(0); r.Call != -1 || r.Err != -1 {
		t.Errorf("ring %+v", r)
	}
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// A call descriptor that replaces another one of a running ring is signalled
// once: a completion may have gone to the old one. Nobody else is signalled.
func TestSessionCallIsSignalled(t *testing.T) {
	p := connect(t, new(fakeDevice))
	p.negotiate()
	first, second, third := eventFD(t), eventFD(t), eventFD(t)
	p.must(SetVringCall, VringFile{Index: 0}.Append(nil), first)
	p.setUp(0)
	p.kick(0)
	p.must(SetVringCall, VringFile{Index: 0}.Append(nil), second)
	p.call(GetVringBase, VringState{0, 0}.Append(nil))
	p.must(SetVringCall, VringFile{Index: 0}.Append(nil), third)
	for i, want := range []bool{false, true, false} {
		fd := []int{first, second, third}[i]
		var b [8]byte
		n, err := unix.Read(fd, b[:]) // non-blocking by now
		if got := n == 8 && err == nil; got != want {
			t.Errorf("descriptor %d: signalled %v, want %v (%v)", i, got, want, err)
		}
	}
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// A front-end that takes the pages away from under its memory does not hurt the
// protocol side: it never touches them.
func TestSessionMemoryShrinks(t *testing.T) {
	dev := new(fakeDevice)
	p := connect(t, dev)
	p.negotiate()
	p.setUp(0)
	mem := memFD(t, 1<<20)
	p.must(SetMemTable, AppendMemTable(nil, []guestmem.RegionDesc{desc(0, 1<<20, 0)}), mem)
	p.kick(0)
	if err := unix.Ftruncate(mem, 0); err != nil {
		t.Fatal(err)
	}
	p.must(SetVringAddr, ringAddr(0).Append(nil))
	p.must(SetVringEnable, VringState{0, 0}.Append(nil))
	p.must(SetVringEnable, VringState{0, 1}.Append(nil))
	p.mustNot("file has only 0x0", AddMemReg, AppendMemReg(nil, desc(1<<20, pageSize, 0)), mem)
	if got := dev.told(); !strings.HasSuffix(got, "start 0 at 7") {
		t.Errorf("the device was told %q", got)
	}
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// descriptorsOf counts the descriptors of this process that are of an eventfd
// (proc_pid_fdinfo(5), "eventfd-id").
func descriptorsOf(t *testing.T, event int) (n int) {
	t.Helper()
	id := func(fd string) string {
		text, _ := os.ReadFile("/proc/self/fdinfo/" + fd)
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "eventfd-id:"); ok {
				return strings.TrimSpace(rest)
			}
		}
		return ""
	}
	want := id(strconv.Itoa(event))
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil || want == "" {
		t.Fatalf("the eventfd has the number %q: %v", want, err)
	}
	for _, fd := range fds {
		if id(fd.Name()) == want {
			n++
		}
	}
	return n
}
