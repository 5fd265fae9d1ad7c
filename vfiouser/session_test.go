package vfiouser

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What a device has is what a client is shown, and its accesses reach the device in order,
// posted ones too.
func TestSessionRegions(t *testing.T) {
	dev := newFake()
	p := agreed(t, dev)
	i, err := ParseDeviceInfo(p.must(GetInfo, DeviceInfo{Argsz: 100}.Append(nil)))
	if want := (DeviceInfo{16, DeviceReset | DevicePCI, 4, 4}); err != nil || i != want {
		t.Fatalf("%+v, %v", i, err)
	}
	for n, want := range dev.Info().Regions {
		r, err := ParseRegionInfo(p.must(GetRegionInfo, RegionInfo{Argsz: 32, Index: uint32(n)}.Append(nil)))
		if err != nil || r != (RegionInfo{Argsz: 32, Flags: want.Flags, Index: uint32(n), Size: want.Size}) {
			t.Errorf("region %d: %+v, %v", n, r, err)
		}
		f, err := ParseRegionIOFDs(p.must(GetRegionIOFDs, RegionIOFDs{Argsz: 16, Index: uint32(n)}.Append(nil)))
		if err != nil || f != (RegionIOFDs{Argsz: 16, Index: uint32(n)}) {
			t.Errorf("region %d: %+v, %v", n, f, err)
		}
	}
	for n, want := range dev.Info().IRQs {
		i, err := ParseIRQInfo(p.must(GetIRQInfo, IRQInfo{Argsz: 16, Index: uint32(n)}.Append(nil)))
		if err != nil || i != (IRQInfo{16, want.Flags, uint32(n), want.Count}) {
			t.Errorf("interrupt type %d: %+v, %v", n, i, err)
		}
	}
	for n := range 100 { // posted writes, and a read that follows them
		p.send(FlagNoReply, RegionWrite, Access{uint64(n), fakeRegion, 1, []byte{byte(n)}}.Append(nil))
	}
	p.send(FlagNoReply, RegionWrite, Access{1 << 40, fakeRegion, 1, []byte{1}}.Append(nil)) // refused, without a reply
	a, err := ParseAccess(p.must(RegionRead, Access{Offset: 0, Region: fakeRegion, Count: 100}.Append(nil)))
	if err != nil || a.Count != 100 || len(a.Data) != 100 || a.Data[99] != 99 || a.Data[1] != 1 {
		t.Errorf("%+v, %v", a, err)
	}
	big := bytes.Repeat([]byte("0123456789abcdef"), MaxData/16)
	if b := p.must(RegionWrite, Access{MaxData, fakeRegion, MaxData, big}.Append(nil)); len(b) != accessSize {
		t.Errorf("a reply of %d bytes to a write", len(b))
	}
	a, err = ParseAccess(p.must(RegionRead, Access{Offset: MaxData, Region: fakeRegion, Count: MaxData}.Append(nil)))
	if err != nil || !bytes.Equal(a.Data, big) {
		t.Errorf("%d bytes, %v", len(a.Data), err)
	}
	for _, c := range []struct {
		err  error
		want unix.Errno
	}{{errBoom, unix.EIO}, {fmt.Errorf("so: %w", unix.EBUSY), unix.EBUSY}} {
		dev.failNext(c.err)
		if _, errno := p.call(RegionRead, Access{Count: 1}.Append(nil)); errno != c.want {
			t.Errorf("%v becomes %v", c.err, errno)
		}
	}
	p.must(Reset, nil)
	if got := dev.seen(); got != "reset" {
		t.Error(got)
	}
	p.quit()
}

func mapping(address, size, offset uint64) []byte {
	return Mapping{mappingSize, MapRead | MapWrite, offset, address, size}.Append(nil)
}

func unmapping(address, size uint64) []byte {
	return Unmapping{unmappingSize, 0, address, size}.Append(nil)
}

func TestSessionDMA(t *testing.T) {
	dev := newFake()
	p := agreed(t, dev)
	fd := memfd(t, 1<<20)
	p.must(DMAMap, mapping(0x10000, 0x10000, 0x1000), fd)
	p.must(DMAMap, mapping(0x20000, 0x1000, 0)) // no descriptor
	p.must(DMAMap, mapping(-0x1000&(1<<64-1), 0x1000, 0), fd)
	p.must(DMAMap, mapping(0, 0x10000, 0), fd)
	if got := dev.seen(); got != "map 0x10000+0x10000 offset 0x1000 file true; map 0x20000+0x1000 offset 0x0 file false; "+
		"map 0xfffffffffffff000+0x1000 offset 0x0 file true; map 0x0+0x10000 offset 0x0 file true" {
		t.Error(got)
	}
	for _, c := range []struct{ address, size uint64 }{
		{0, 0x10000}, {0xf000, 0x2000}, {0x11000, 0x1000}, {0x1f000, 0x1000}, {0x20000, 0x100000}, {0xffffffffffff0000, 0x10000},
	} {
		if _, errno := p.call(DMAMap, mapping(c.address, c.size, 0), fd); errno != unix.EEXIST {
			t.Errorf("%#x+%#x over others: %v", c.address, c.size, errno)
		}
	}
	for _, c := range []struct{ address, size uint64 }{
		{0x10000, 0x1000}, {0x11000, 0xf000}, {0x10000, 0x11000}, {0x30000, 0x1000}, {0x10000, 0}, {0x1f000, 0x1000},
	} {
		if _, errno := p.call(DMAUnmap, unmapping(c.address, c.size)); errno != unix.ENOENT {
			t.Errorf("unmap %#x+%#x: %v", c.address, c.size, errno)
		}
	}
	if got := dev.seen(); got != "" {
		t.Error(got)
	}
	u := unmapping(0x10000, 0x10000)
	if b := p.must(DMAUnmap, u); !bytes.Equal(b, u) {
		t.Errorf("reply %x to %x", b, u)
	}
	p.must(DMAMap, mapping(0x10000, 0x10000, 0), fd) // it comes back, with another part of the file
	dev.failNext(errBoom)
	if _, errno := p.call(DMAMap, mapping(0x40000, 0x1000, 0), fd); errno != unix.EIO {
		t.Error(errno)
	}
	if got := dev.seen(); got != "unmap 0x10000+0x10000; map 0x10000+0x10000 offset 0x0 file true" {
		t.Error(got)
	}
	for _, u := range [][]byte{unmapping(0x10000, 0x10000), Unmapping{unmappingSize, UnmapAll, 0, 0}.Append(nil)} {
		dev.failNext(unix.EBUSY) // all maps stay
		if _, errno := p.call(DMAUnmap, u); errno != unix.EBUSY {
			t.Errorf("an unmap that the device refuses: %v", errno)
		}
	}
	p.must(DMAUnmap, Unmapping{unmappingSize, UnmapAll, 0, 0}.Append(nil))
	if got := dev.seen(); strings.Count(got, "unmap") != 4 {
		t.Error(got)
	}
	p.must(DMAUnmap, Unmapping{unmappingSize, UnmapAll, 0, 0}.Append(nil)) // of nothing
	for i := range uint64(MaxMaps) {
		p.must(DMAMap, mapping(i<<12, 0x1000, 0))
	}
	if _, errno := p.call(DMAMap, mapping(MaxMaps<<12, 0x1000, 0)); errno != unix.ENOSPC {
		t.Error(errno)
	}
	p.quit()
}

func irqSet(flags, index, start, count uint32, data ...byte) []byte {
	return IRQSet{uint32(irqSetSize + len(data)), flags, index, start, count, data}.Append(nil)
}

func TestSessionInterrupts(t *testing.T) {
	dev := newFake()
	p := agreed(t, dev)
	var fds []int
	for range 5 {
		fds = append(fds, eventfd(t))
	}
	counts := func() (s string) {
		for _, fd := range fds {
			s += fmt.Sprint(count(t, fd))
		}
		return s
	}
	const set, trigger, disable = IRQDataEventfd | IRQTrigger, IRQDataNone | IRQTrigger, IRQDataNone | IRQTrigger
	p.must(SetIRQs, irqSet(set, fakeMSIX, 1, 3), fds[1:4]...)
	if got := dev.seen(); got != "irq 0.1 true; irq 0.2 true; irq 0.3 true" {
		t.Error(got)
	}
	for i := range uint32(5) {
		dev.interrupt(fakeMSIX, i)
	}
	if got := counts(); got != "01110" {
		t.Error(got)
	}
	p.must(SetIRQs, irqSet(trigger, fakeMSIX, 0, 5))
	p.must(SetIRQs, irqSet(IRQDataBool|IRQTrigger, fakeMSIX, 1, 2, 0, 1))
	if got := counts(); got != "01210" {
		t.Error(got)
	}
	p.must(SetIRQs, irqSet(set, fakeMSIX, 3, 1), fds[4]) // replaced
	p.must(SetIRQs, irqSet(set, fakeMSIX, 1, 1))         // removed
	p.must(SetIRQs, irqSet(trigger, fakeMSIX, 0, 5))
	if got := counts(); got != "00101" {
		t.Error(got)
	}
	dev.seen()
	p.must(SetIRQs, irqSet(disable, fakeMSIX, 0, 0))
	if got := dev.seen(); got != "irq 0.0 false; irq 0.1 false; irq 0.2 false; irq 0.3 false; irq 0.4 false" {
		t.Error(got)
	}
	for i := range uint32(5) {
		dev.interrupt(fakeMSIX, i)
	}
	p.must(SetIRQs, irqSet(disable, fakeMSIX, 0, 0))
	p.must(SetIRQs, irqSet(disable, fakeNoIRQ, 0, 0)) // QEMU disables types that the device does not have
	if got := counts(); got != "00000" {
		t.Error(got)
	}
	p.quit()
}

// While a vector is masked its interrupts are held back, and delivered once afterwards.
func TestSessionMaskedInterrupts(t *testing.T) {
	dev := newFake()
	p := agreed(t, dev)
	fd, masks, unmasks := eventfd(t), eventfd(t), eventfd(t)
	p.must(SetIRQs, irqSet(IRQDataEventfd|IRQTrigger, fakeLegacy, 1, 1), fd)
	p.must(SetIRQs, irqSet(IRQDataEventfd|IRQMask, fakeLegacy, 1, 1), masks)
	p.must(SetIRQs, irqSet(IRQDataEventfd|IRQUnmask, fakeLegacy, 1, 1), unmasks)
	check := func(what string, want ...uint64) {
		t.Helper()
		if got := []uint64{count(t, fd), count(t, masks), count(t, unmasks)}; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	p.must(SetIRQs, irqSet(IRQDataNone|IRQMask, fakeLegacy, 0, 2))
	check("masked", 0, 1, 0)
	p.must(SetIRQs, irqSet(IRQDataNone|IRQMask, fakeLegacy, 0, 2))
	check("masked again", 0, 0, 0)
	dev.interrupt(fakeLegacy, 1)
	p.must(SetIRQs, irqSet(IRQDataNone|IRQTrigger, fakeLegacy, 1, 1))
	check("signalled", 0, 0, 0)
	p.must(SetIRQs, irqSet(IRQDataBool|IRQUnmask, fakeLegacy, 0, 2, 1, 0))
	check("another one unmasked", 0, 0, 0)
	p.must(SetIRQs, irqSet(IRQDataNone|IRQUnmask, fakeLegacy, 1, 1))
	check("unmasked", 1, 0, 1)
	p.must(SetIRQs, irqSet(IRQDataNone|IRQUnmask, fakeLegacy, 1, 1))
	check("unmasked again", 0, 0, 0)
	dev.interrupt(fakeLegacy, 1)
	check("signalled", 1, 0, 0)

	p.must(SetIRQs, irqSet(IRQDataNone|IRQMask, fakeLegacy, 1, 1))
	dev.interrupt(fakeLegacy, 1)
	other := eventfd(t)
	p.must(SetIRQs, irqSet(IRQDataEventfd|IRQTrigger, fakeLegacy, 1, 1), other) // exchanged while it is masked
	p.must(SetIRQs, irqSet(IRQDataNone|IRQUnmask, fakeLegacy, 1, 1))
	check("exchanged", 0, 1, 1)
	if n := count(t, other); n != 1 {
		t.Error(n)
	}
	p.must(SetIRQs, irqSet(IRQDataNone|IRQMask, fakeLegacy, 0, 1))
	p.must(SetIRQs, irqSet(IRQDataNone|IRQTrigger, fakeLegacy, 0, 0)) // disabled while one is masked
	p.quit()
}

// A client can make its eventfd blocking and full. The session does not wait for it.
func TestSessionFullEventfd(t *testing.T) {
	dev := newFake()
	p := agreed(t, dev)
	fd := eventfd(t)
	p.must(SetIRQs, irqSet(IRQDataEventfd|IRQTrigger, fakeMSIX, 0, 1), fd)
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(fd, []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		p.must(SetIRQs, irqSet(IRQDataNone|IRQTrigger, fakeMSIX, 0, 1))
	}
	p.quit()
}

// refusal is a command that gets an error reply and changes nothing.
type refusal struct {
	name    string
	flags   uint32
	c       Command
	payload []byte
	fds     []int
	want    unix.Errno
	why     string
}

func refusals(t *testing.T) []refusal {
	mem, ev := memfd(t, 1<<20), eventfd(t)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(pipe[0]); _ = unix.Close(pipe[1]) })
	many := func(n, fd int) (fds []int) {
		for range n {
			fds = append(fds, fd)
		}
		return fds
	}
	const inval = unix.EINVAL
	const set = IRQDataEventfd | IRQTrigger
	all := []refusal{
		{"unknown", 0, 14, nil, nil, unix.ENOSYS, "no such command"},
		{"unknown too", 0, 0xffff, []byte{1}, []int{ev}, unix.ENOSYS, "no such command"},
		{"zero", 0, 0, nil, nil, unix.ENOSYS, "no such command"},
		{"feature", 0, DeviceFeature, make([]byte, 8), nil, unix.ENOTSUP, "migration is not supported"},
		{"migration", 0, MigDataRead, make([]byte, 8), nil, unix.ENOTSUP, "migration"},
		{"multi", 0, RegionWriteMulti, make([]byte, 32), nil, unix.ENOTSUP, "write_multiple"},
		{"backwards", 0, DMARead, make([]byte, 16), nil, unix.ENOTSUP, "a server sends it"},
		{"version again", 0, Version, VersionData{0, 1, nil}.Append(nil), nil, inval, "negotiated already"},
		{"reserved flag", 0x40, GetInfo, DeviceInfo{Argsz: 16}.Append(nil), nil, inval, "flags 0x40"},
		{"error flag", FlagError, GetInfo, DeviceInfo{Argsz: 16}.Append(nil), nil, inval, "only no_reply"},

		{"info argsz", 0, GetInfo, DeviceInfo{Argsz: 15}.Append(nil), nil, inval, "argsz 15"},
		{"info descriptor", 0, GetInfo, DeviceInfo{Argsz: 16}.Append(nil), []int{ev}, inval, "1 descriptors came along, at most 0"},
		{"region argsz", 0, GetRegionInfo, RegionInfo{Argsz: 31}.Append(nil), nil, inval, "argsz 31"},
		{"region index", 0, GetRegionInfo, RegionInfo{Argsz: 32, Index: 4}.Append(nil), nil, inval, "no region 4"},
		{"region index far", 0, GetRegionInfo, RegionInfo{Argsz: 32, Index: 1<<32 - 1}.Append(nil), nil, inval, "no region"},
		{"io fds index", 0, GetRegionIOFDs, RegionIOFDs{Argsz: 16, Index: 4}.Append(nil), nil, inval, "no region 4"},
		{"io fds argsz", 0, GetRegionIOFDs, RegionIOFDs{Argsz: 8}.Append(nil), nil, inval, "argsz"},
		{"io fds flags", 0, GetRegionIOFDs, RegionIOFDs{Argsz: 16, Flags: 1}.Append(nil), nil, inval, "have to be 0"},
		{"io fds count", 0, GetRegionIOFDs, RegionIOFDs{Argsz: 16, Count: 1}.Append(nil), nil, inval, "have to be 0"},
		{"irq argsz", 0, GetIRQInfo, IRQInfo{Argsz: 1}.Append(nil), nil, inval, "argsz"},
		{"irq index", 0, GetIRQInfo, IRQInfo{Argsz: 16, Index: 4}.Append(nil), nil, inval, "no interrupt type 4"},

		{"read index", 0, RegionRead, Access{0, 9, 1, nil}.Append(nil), nil, inval, "no region 9"},
		{"read nothing", 0, RegionRead, Access{0, 0, 0, nil}.Append(nil), nil, inval, "count 0"},
		{"read much", 0, RegionRead, Access{0, 0, MaxData + 1, nil}.Append(nil), nil, inval, "count"},
		{"read behind", 0, RegionRead, Access{256, fakeROM, 1, nil}.Append(nil), nil, inval, "ends at 0x100"},
		{"read across", 0, RegionRead, Access{255, fakeROM, 2, nil}.Append(nil), nil, inval, "ends at"},
		{"read far", 0, RegionRead, Access{1<<64 - 1, fakeROM, 2, nil}.Append(nil), nil, inval, "ends at"},
		{"read empty", 0, RegionRead, Access{0, fakeNone, 1, nil}.Append(nil), nil, inval, "ends at 0x0"},
		{"read unreadable", 0, RegionRead, Access{0, fakeWrite, 1, nil}.Append(nil), nil, unix.EPERM, "does not allow"},
		{"read with data", 0, RegionRead, Access{0, 0, 1, []byte{1}}.Append(nil), nil, inval, "payload of 17"},
		{"write nothing", 0, RegionWrite, Access{0, 0, 0, nil}.Append(nil), nil, inval, "payload of 16"},
		{"write short", 0, RegionWrite, Access{0, 0, 4, []byte{1}}.Append(nil), nil, inval, "1 bytes of data came along with count 4"},
		{"write long", 0, RegionWrite, Access{0, 0, 1, []byte{1, 2}}.Append(nil), nil, inval, "2 bytes of data"},
		{"write ROM", 0, RegionWrite, Access{0, fakeROM, 1, []byte{1}}.Append(nil), nil, unix.EPERM, "does not allow"},
		{"write across", 0, RegionWrite, Access{7, fakeWrite, 2, []byte{1, 2}}.Append(nil), nil, inval, "ends at"},

		{"map argsz", 0, DMAMap, Mapping{31, 3, 0, 0, 0x1000}.Append(nil), []int{mem}, inval, "argsz 31"},
		{"map no flags", 0, DMAMap, Mapping{32, 0, 0, 0, 0x1000}.Append(nil), []int{mem}, inval, "flags 0x0"},
		{"map flags", 0, DMAMap, Mapping{32, 7, 0, 0, 0x1000}.Append(nil), []int{mem}, inval, "flags 0x7"},
		{"map nothing", 0, DMAMap, mapping(0, 0, 0), []int{mem}, inval, "multiples"},
		{"map part of a page", 0, DMAMap, mapping(0, 0x800, 0), []int{mem}, inval, "multiples"},
		{"map address", 0, DMAMap, mapping(1, 0x1000, 0), []int{mem}, inval, "multiples"},
		{"map offset", 0, DMAMap, mapping(0, 0x1000, 1), []int{mem}, inval, "multiples"},
		{"map around", 0, DMAMap, mapping(1<<64-0x1000, 0x2000, 0), []int{mem}, inval, "64 bits"},
		{"map file end", 0, DMAMap, mapping(0, 0x1000, 1<<63-0x1000), []int{mem}, inval, "64 bits"},
		{"map two", 0, DMAMap, mapping(0, 0x1000, 0), []int{mem, mem}, inval, "2 descriptors"},
		{"map eventfd", 0, DMAMap, mapping(0, 0x1000, 0), []int{ev}, inval, "its descriptor is an eventfd"},
		{"map pipe", 0, DMAMap, mapping(0, 0x1000, 0), []int{pipe[0]}, inval, "a pipe"},
		{"unmap argsz", 0, DMAUnmap, Unmapping{23, 0, 0, 0x1000}.Append(nil), nil, inval, "argsz"},
		{"unmap dirty", 0, DMAUnmap, Unmapping{24, 1, 0, 0x1000}.Append(nil), nil, unix.ENOTSUP, "dirty"},
		{"unmap flags", 0, DMAUnmap, Unmapping{24, 4, 0, 0x1000}.Append(nil), nil, inval, "flags 0x4"},
		{"unmap all and one", 0, DMAUnmap, Unmapping{24, 2, 0, 0x1000}.Append(nil), nil, inval, "unmap-all"},
		{"unmap nothing", 0, DMAUnmap, unmapping(0, 0x1000), nil, unix.ENOENT, "no map"},
		{"unmap descriptor", 0, DMAUnmap, unmapping(0, 0x1000), []int{mem}, inval, "1 descriptors"},

		{"irqs argsz", 0, SetIRQs, IRQSet{19, set, 0, 0, 1, nil}.Append(nil), nil, inval, "argsz 19"},
		{"irqs argsz with data", 0, SetIRQs, IRQSet{20, IRQDataBool | IRQTrigger, 0, 0, 1, []byte{1}}.Append(nil), nil, inval, "argsz 20"},
		{"irqs index", 0, SetIRQs, irqSet(set, 4, 0, 1), nil, inval, "no interrupt type 4"},
		{"irqs start", 0, SetIRQs, irqSet(set, 0, 5, 1), []int{ev}, inval, "vectors 5 to 6"},
		{"irqs start far", 0, SetIRQs, irqSet(set, 0, 1<<32-1, 2), nil, inval, "vectors"},
		{"irqs count", 0, SetIRQs, irqSet(set, 0, 1, 5), nil, inval, "vectors 1 to 6"},
		{"irqs count far", 0, SetIRQs, irqSet(set, 0, 1, 1<<32-1), nil, inval, "vectors"},
		{"irqs none there", 0, SetIRQs, irqSet(set, fakeNoIRQ, 0, 1), []int{ev}, inval, "vectors 0 to 1"},
		{"irqs zero, bool", 0, SetIRQs, irqSet(IRQDataBool|IRQTrigger, 0, 0, 0), nil, inval, "count 0"},
		{"irqs zero, mask", 0, SetIRQs, irqSet(IRQDataNone|IRQMask, 1, 0, 0), nil, inval, "count 0"},
		{"irqs zero, start", 0, SetIRQs, irqSet(IRQDataNone|IRQTrigger, 0, 1, 0), nil, inval, "count 0"},
		{"irqs zero, descriptor", 0, SetIRQs, irqSet(IRQDataNone|IRQTrigger, 0, 0, 0), []int{ev}, inval, "1 descriptors"},
		{"irqs no data flag", 0, SetIRQs, irqSet(IRQTrigger, 0, 0, 1), nil, inval, "flags 0x20"},
		{"irqs two data flags", 0, SetIRQs, irqSet(IRQTrigger|3, 0, 0, 1), nil, inval, "flags"},
		{"irqs no action", 0, SetIRQs, irqSet(IRQDataNone, 0, 0, 1), nil, inval, "flags"},
		{"irqs two actions", 0, SetIRQs, irqSet(IRQDataNone|IRQMask|IRQUnmask, 1, 0, 1), nil, inval, "flags"},
		{"irqs flags", 0, SetIRQs, irqSet(set|0x40, 0, 0, 1), []int{ev}, inval, "flags"},
		{"irqs descriptors", 0, SetIRQs, irqSet(set, 0, 0, 3), many(2, ev), inval, "2 descriptors came along with count 3"},
		{"irqs many descriptors", 0, SetIRQs, irqSet(set, 0, 0, 5), many(MaxFDs+1, ev), inval, "17 descriptors"},
		{"irqs very many descriptors", 0, SetIRQs, irqSet(set, 0, 0, 5), many(scmMaxFD, ev), inval, "253 descriptors"},
		{"irqs bool short", 0, SetIRQs, irqSet(IRQDataBool|IRQTrigger, 0, 0, 2, 1), nil, inval, "1 bytes of data instead of 2"},
		{"irqs bool long", 0, SetIRQs, irqSet(IRQDataBool|IRQTrigger, 0, 0, 2, 1, 1, 1), nil, inval, "3 bytes of data"},
		{"irqs no bool", 0, SetIRQs, irqSet(IRQDataBool|IRQTrigger, 0, 0, 1, 2), nil, inval, "a boolean of 2"},
		{"irqs data with none", 0, SetIRQs, irqSet(IRQDataNone|IRQTrigger, 0, 0, 1, 1), nil, inval, "1 bytes of data"},
		{"irqs data with eventfd", 0, SetIRQs, irqSet(set, 0, 0, 1, 1, 0, 0, 0), []int{ev}, inval, "4 bytes of data"},
		{"irqs descriptor with bool", 0, SetIRQs, irqSet(IRQDataBool|IRQTrigger, 0, 0, 1, 1), []int{ev}, inval, "1 descriptors"},
		{"irqs mask", 0, SetIRQs, irqSet(IRQDataNone|IRQMask, 0, 0, 1), nil, unix.ENOTSUP, "cannot be masked"},
		{"irqs unmask", 0, SetIRQs, irqSet(IRQDataEventfd|IRQUnmask, 0, 0, 1), []int{ev}, unix.ENOTSUP, "cannot be masked"},
		{"irqs no eventfd", 0, SetIRQs, irqSet(set, fakePolled, 0, 1), []int{ev}, unix.ENOTSUP, "no eventfds"},
		{"irqs pipe", 0, SetIRQs, irqSet(set, 0, 0, 1), []int{pipe[1]}, inval, "a pipe"},
		{"irqs memory", 0, SetIRQs, irqSet(set, 0, 0, 2), []int{ev, mem}, inval, "a memory file"},
	}
	// Each command with each wrong size.
	for c := range Command(numCommands) {
		r := c.row()
		if r.handle == nil || c == Version {
			continue
		}
		for n := range r.size + 9 {
			if n == r.size || n > r.size && r.atLeast {
				continue
			}
			all = append(all, refusal{fmt.Sprintf("%v of %d bytes", c, n), 0, c, make([]byte, n), nil, inval, "payload of"})
		}
	}
	return all
}

// A wrong command gets an error reply that names what is wrong in the log, and the session and
// its device stay as they were.
func TestSessionRefuses(t *testing.T) {
	dev := newFake()
	p := agreed(t, dev)
	fd, ev := memfd(t, 1<<20), eventfd(t)
	p.must(DMAMap, mapping(0x100000, 0x1000, 0), fd)
	p.must(SetIRQs, irqSet(IRQDataEventfd|IRQTrigger, fakeMSIX, 0, 1), ev)
	dev.seen()
	all := refusals(t)
	for _, r := range all {
		p.mu.Lock()
		p.logs = nil
		p.mu.Unlock()
		for _, flags := range []uint32{0, FlagNoReply} { // posted, it has no reply
			p.send(r.flags|flags, r.c, r.payload, r.fds...)
			if flags == 0 {
				if _, errno := p.reply(r.c); errno != r.want {
					t.Errorf("%s: %v, want %v", r.name, errno, r.want)
				}
			}
		}
		p.must(GetInfo, DeviceInfo{Argsz: 16}.Append(nil))
		if !p.logged(r.why) {
			t.Errorf("%s: %q is not logged, but %q", r.name, r.why, p.logs)
		}
	}
	if got := dev.seen(); got != "" {
		t.Error(got)
	}
	p.must(SetIRQs, irqSet(IRQDataNone|IRQTrigger, fakeMSIX, 0, 1))
	if count(t, ev) != 1 {
		t.Error("the eventfd is not there any more")
	}
	p.must(DMAUnmap, unmapping(0x100000, 0x1000))
	t.Logf("%d refusals, each with and without a reply", len(all))
	p.quit()
}

// What leaves unknown where the next message begins, or comes before the version is
// negotiated, ends the session.
func TestSessionEnds(t *testing.T) {
	info := DeviceInfo{Argsz: 16}.Append(nil)
	for _, c := range []struct {
		name, why string
		before    bool // before VERSION
		wire      []byte
	}{
		{"size 0", "message size 0", false, Header{1, GetInfo, 0, 0, 0}.Append(nil)},
		{"size 15", "message size 15", false, Header{1, GetInfo, 15, 0, 0}.Append(nil)},
		{"too long", "at most", false, Header{1, RegionWrite, HeaderSize + MaxPayload + 1, 0, 0}.Append(nil)},
		{"4 GiB", "at most", false, Header{1, RegionWrite, 1<<32 - 1, 0, 0}.Append(nil)},
		{"a reply", "message type 1", false, append(Header{1, GetInfo, 32, FlagReply, 0}.Append(nil), info...)},
		{"a type", "message type 2", false, append(Header{1, GetInfo, 32, 2, 0}.Append(nil), info...)},
		{"half a header", "reading a message header: unexpected EOF", false, make([]byte, 7)},
		{"half a payload", "reading the 16 bytes of DEVICE_GET_INFO: unexpected EOF", false, append(Header{1, GetInfo, 32, 0, 0}.Append(nil), 1)},
		{"no payload", "unexpected EOF", false, Header{1, GetInfo, 32, 0, 0}.Append(nil)},
		{"no version", "before VERSION", true, append(Header{1, GetInfo, 32, 0, 0}.Append(nil), info...)},
		{"reset first", "before VERSION", true, Header{1, Reset, 16, 0, 0}.Append(nil)},
		{"posted version", "before VERSION", true, append(Header{1, Version, 20, FlagNoReply, 0}.Append(nil), 0, 0, 1, 0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			connect := agreed
			if c.before {
				connect = connectOnly
			}
			p := connect(t, newFake())
			if err := p.conn.WriteRaw(c.wire); err != nil {
				t.Fatal(err)
			}
			_ = p.uc.CloseWrite()
			p.ends(c.why)
		})
	}
}

// connectOnly is connect under another name, for tests that choose.
func connectOnly(t testing.TB, d *fakeDevice, set ...func(*Session)) *peer {
	return connect(t, d, set...)
}

// A message that has begun has a time limit, and so has a reply that nobody reads; between
// messages there is none. Descriptors without a message end the session too.
func TestSessionTimeLimits(t *testing.T) {
	short := func(s *Session) { s.conn.limit = 20 * time.Millisecond }
	t.Run("half a header", func(t *testing.T) {
		p := agreed(t, newFake(), short)
		if err := p.conn.WriteRaw(make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		p.ends(errHalfMessage.Error())
	})
	t.Run("half a payload", func(t *testing.T) {
		p := agreed(t, newFake(), short)
		if err := p.conn.WriteRaw(Header{1, RegionWrite, 100, 0, 0}.Append(nil), eventfd(t)); err != nil {
			t.Fatal(err)
		}
		p.ends(errHalfMessage.Error())
	})
	t.Run("replies that nobody reads", func(t *testing.T) {
		p := agreed(t, newFake(), short)
		wire := append(Header{1, RegionRead, HeaderSize + accessSize, 0, 0}.Append(nil), Access{0, 0, MaxData, nil}.Append(nil)...)
		if err := p.conn.WriteRaw(wire); err != nil {
			t.Fatal(err)
		}
		p.ends(errNotTaken.Error())
	})
	t.Run("own end, out of band", func(t *testing.T) {
		p := agreed(t, newFake(), short)
		raw, err := p.uc.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) {
			err = unix.Sendmsg(int(fd), []byte{1}, unix.UnixRights(int(fd)), nil, unix.MSG_OOB)
		})
		if err != nil {
			t.Fatal(err)
		}
		_ = p.uc.Close()
		p.ends(errHalfMessage.Error())
	})
	t.Run("closed", func(t *testing.T) {
		p := agreed(t, newFake())
		p.s.Close()
		p.s.Close()
		if err := p.leave(); err != nil {
			t.Error(err)
		}
		if p.s.Presence() != Left {
			t.Error(p.s.Presence())
		}
	})
}

// Commands that come all at once, each with its own descriptors, get their own descriptors.
func TestDescriptorsBelongToTheirMessage(t *testing.T) {
	dev := newFake()
	p := agreed(t, dev)
	var fds []int
	for range 5 {
		fds = append(fds, eventfd(t))
	}
	var want []Command
	inside := false
	dev.mu.Lock() // the session stops at the read, and what follows queues up
	dev.reading = func() { inside = true }
	p.send(0, RegionRead, Access{0, 0, 4, nil}.Append(nil))
	want = append(want, RegionRead)
	for i := range uint32(5) {
		p.send(0, SetIRQs, irqSet(IRQDataEventfd|IRQTrigger, fakeMSIX, i, 1), fds[i])
		p.send(0, GetInfo, DeviceInfo{Argsz: 16}.Append(nil))
		want = append(want, SetIRQs, GetInfo)
	}
	dev.mu.Unlock()
	p.id -= uint16(len(want))
	for _, c := range want {
		p.id++
		if _, errno := p.reply(c); errno != 0 {
			t.Errorf("%v: %v", c, errno)
		}
	}
	dev.mu.Lock()
	if !inside {
		t.Error("nothing was read")
	}
	dev.mu.Unlock()
	for i, fd := range fds {
		dev.interrupt(fakeMSIX, uint32(i))
		if n := count(t, fd); n != 1 {
			t.Errorf("eventfd %d: %d", i, n)
		}
	}
	p.quit()
}

// Presence follows a client through a message to its end.
func TestSessionPresence(t *testing.T) {
	dev := newFake()
	p := agreed(t, dev)
	for p.s.Presence() != Here {
		time.Sleep(time.Millisecond)
	}
	dev.mu.Lock()
	p.send(0, Reset, nil)
	if got := p.s.Presence(); got != Busy {
		t.Error(got)
	}
	dev.mu.Unlock()
	if _, errno := p.reply(Reset); errno != 0 {
		t.Fatal(errno)
	}
	p.quit()
	if got := p.s.Presence(); got != Left {
		t.Error(got)
	}
}

// A client that does wrong all the time does not fill the log.
func TestSessionWarnings(t *testing.T) {
	p := agreed(t, newFake())
	for range 3 * maxWarnings {
		p.call(99, nil)
	}
	p.quit()
	n := 0
	for _, l := range p.logs {
		if strings.HasPrefix(l, fmt.Sprint(LevelWarn)) {
			n++
		}
	}
	if n != maxWarnings+1 {
		t.Errorf("%d warnings", n)
	}
}

// The reader says at which point a connection ends.
func TestConnEOF(t *testing.T) {
	a, b := socketPair(t)
	ca, err := NewConn(a)
	if err != nil {
		t.Fatal(err)
	}
	cb, err := NewConn(b)
	if err != nil {
		t.Fatal(err)
	}
	_ = ca.Close()
	if err := cb.ReadCommand(new(Message)); err != io.EOF {
		t.Error(err)
	}
	_ = cb.Close()
}
