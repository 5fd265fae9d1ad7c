package vhostuser

import (
	"math"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// Each wrong message is refused by an error answer where the front-end asked
// for one, and the session goes on; else it ends the session, with an error
// that has the message's name.
func TestSessionRefuses(t *testing.T) {
	event, mem, null := eventFD(t), memFD(t, 1<<20), devnull(t, 1)[0]
	table := AppendMemTable(nil, []guestmem.RegionDesc{desc(0, 1<<20, 0)})
	state := func(i, n uint32) []byte { return VringState{i, n}.Append(nil) }
	addr := func(change func(*VringAddr)) []byte {
		a := ringAddr(0)
		change(&a)
		return a.Append(nil)
	}
	running := func(p *peer) { p.negotiate(); p.setUp(0); p.kick(0) }
	negotiated := func(p *peer) { p.negotiate() }
	ackOnly := func(p *peer) { p.must(SetProtocolFeatures, AppendU64(nil, ProtocolReplyAck)) }
	for _, c := range []struct {
		name    string
		before  func(*peer)
		request Request
		payload []byte
		fds     []int
		words   string
	}{
		// Numbers that are no message, or one of other devices.
		{"message 0", negotiated, 0, nil, nil, "no such message"},
		{"message 45", negotiated, 45, nil, nil, "no such message"},
		{"message 2^32-1", negotiated, math.MaxUint32, []byte{1, 2, 3}, []int{event}, "no such message"},
		{"unsupported", negotiated, IOTLBMsg, make([]byte, 32), nil, "not supported"},
		{"not offered", negotiated, SetVringEndian, make([]byte, 8), nil, "CROSS_ENDIAN, which this back-end does not offer"},
		{"in-flight", negotiated, SetInflightFD, make([]byte, 24), []int{mem}, "0 queues of 0 descriptors"},

		// Wrong size.
		{"short features", negotiated, SetFeatures, make([]byte, 7), nil, "7 bytes instead of 8"},
		{"long features", negotiated, SetFeatures, make([]byte, 9), nil, "9 bytes instead of 8"},
		{"owner with payload", ackOnly, SetOwner, make([]byte, 8), nil, "8 bytes instead of 0"},
		{"short num", negotiated, SetVringNum, make([]byte, 4), nil, "4 bytes instead of 8"},
		{"long addr", negotiated, SetVringAddr, make([]byte, 48), nil, "48 bytes instead of 40"},
		{"empty kick", negotiated, SetVringKick, nil, []int{event}, "0 bytes instead of 8"},
		{"huge enable", negotiated, SetVringEnable, make([]byte, MaxPayload), nil, "4096 bytes instead of 8"},
		{"empty table", negotiated, SetMemTable, nil, nil, "0 bytes"},
		{"table of no regions", negotiated, SetMemTable, AppendMemTable(nil, nil), nil, "0 regions"},
		{"table cut short", negotiated, SetMemTable, table[:39], []int{mem}, "39 bytes instead of 40"},
		{"table of nine", negotiated, SetMemTable, AppendMemTable(nil, make([]guestmem.RegionDesc, 9)), []int{mem}, "9 regions"},
		{"long region", negotiated, AddMemReg, make([]byte, 41), []int{mem}, "41 bytes instead of 40"},
		{"long status", negotiated, SetStatus, make([]byte, 9), nil, "9 bytes instead of 8"},
		{"reset with payload", negotiated, ResetDevice, make([]byte, 1), nil, "1 bytes instead of 0"},

		// Wrong number of descriptors.
		{"owner with fd", ackOnly, SetOwner, nil, []int{event}, "1 descriptors came along instead of 0"},
		{"features with fds", negotiated, SetFeatures, AppendU64(nil, needed), []int{event, event}, "2 descriptors"},
		{"kick without fd", negotiated, SetVringKick, VringFile{}.Append(nil), nil, "no descriptor came along"},
		{"kick with two", negotiated, SetVringKick, VringFile{}.Append(nil), []int{event, event}, "2 descriptors came along instead of 0 to 1"},
		{"kick with none and one", negotiated, SetVringKick, VringFile{NoFD: true}.Append(nil), []int{event}, "bit 8 says that there is none"},
		{"call without fd", negotiated, SetVringCall, VringFile{}.Append(nil), nil, "no descriptor came along"},
		{"err with none and one", negotiated, SetVringErr, VringFile{NoFD: true}.Append(nil), []int{event}, "bit 8 says that there is none"},
		{"table without fds", negotiated, SetMemTable, table, nil, "no descriptor came along with 1 regions"},
		{"table with one fd too many", negotiated, SetMemTable, table, []int{mem, mem}, "2 descriptors came along with 1 regions"},
		{"table with nine fds", negotiated, SetMemTable, table, []int{mem, mem, mem, mem, mem, mem, mem, mem, mem}, "9 descriptors"},
		{"region without fd", negotiated, AddMemReg, AppendMemReg(nil, desc(0, pageSize, 0)), nil, "0 descriptors came along instead of 1"},
		{"region with two", negotiated, AddMemReg, AppendMemReg(nil, desc(0, pageSize, 0)), []int{mem, mem}, "2 descriptors came along instead of 1"},
		{"removal with two", running, RemMemReg, AppendMemReg(nil, desc(0, 1<<20, 0)), []int{mem, mem}, "2 descriptors"},

		// Wrong content.
		{"features not offered", ackOnly, SetFeatures, AppendU64(nil, fakeFeatures|1<<5|1<<40), nil, "features 0x10000000020 were not offered"},
		{"protocol features not offered", ackOnly, SetProtocolFeatures, AppendU64(nil, Offered|ProtocolInbandNotifications|1<<63), nil, "INBAND_NOTIFICATIONS+bit-63 were not offered"},
		{"ring 2 of 2", negotiated, SetVringNum, state(2, 64), nil, "no ring 2, the device has 2"},
		{"ring 2^32-1", negotiated, SetVringBase, state(math.MaxUint32, 64), nil, "no ring 4294967295"},
		{"addr of ring 2", negotiated, SetVringAddr, addr(func(a *VringAddr) { a.Index = 2 }), nil, "no ring 2"},
		{"kick of ring 255", negotiated, SetVringKick, VringFile{Index: 255}.Append(nil), []int{event}, "no ring 255"},
		{"kick with odd bits", negotiated, SetVringKick, AppendU64(nil, 0x200), []int{event}, "unknown bits in 0x200"},
		{"enable of ring 3", negotiated, SetVringEnable, state(3, 1), nil, "no ring 3"},
		{"polling", negotiated, SetVringKick, VringFile{NoFD: true}.Append(nil), nil, "polled for ever"},
		{"kick is a file", negotiated, SetVringKick, VringFile{}.Append(nil), []int{mem}, "a memory file"},
		{"call is a device", running, SetVringCall, VringFile{}.Append(nil), []int{null}, "a character device, \"/dev/null\": it has to be an eventfd"},
		{"num 0", negotiated, SetVringNum, state(0, 0), nil, "1 to 32768"},
		{"num 3", negotiated, SetVringNum, state(0, 3), nil, "power of two"},
		{"num 65536", negotiated, SetVringNum, state(0, 65536), nil, "1 to 32768"},
		{"base 65536", negotiated, SetVringBase, state(0, 65536), nil, "16 bits"},
		{"enable 2", negotiated, SetVringEnable, state(0, 2), nil, "neither 0"},
		{"ring flag", negotiated, SetVringAddr, addr(func(a *VringAddr) { a.Flags = 3 }), nil, "unknown flags 0x3"},
		{"desc unaligned", negotiated, SetVringAddr, addr(func(a *VringAddr) { a.Desc += 8 }), nil, "not aligned"},
		{"avail unaligned", negotiated, SetVringAddr, addr(func(a *VringAddr) { a.Avail++ }), nil, "not aligned"},
		{"used unaligned", negotiated, SetVringAddr, addr(func(a *VringAddr) { a.Used += 2 }), nil, "not aligned"},
		{"status 256", negotiated, SetStatus, AppendU64(nil, 256), nil, "8 bits"},
		{"config outside", negotiated, SetConfig, ConfigAccess{Offset: 90, Data: make([]byte, 7)}.Append(nil), nil, "config space ends"},
		{"config far outside", negotiated, SetConfig, ConfigAccess{Offset: math.MaxUint32, Data: make([]byte, 1)}.Append(nil), nil, "past the end of any space"},
		{"config flags", negotiated, SetConfig, ConfigAccess{Flags: 2, Data: make([]byte, 1)}.Append(nil), nil, "flags 0x2"},
		{"config length", negotiated, SetConfig, append(ConfigAccess{Data: make([]byte, 4)}.Append(nil), 0), nil, "announced"},

		// Memory that cannot be.
		{"region past its file", negotiated, AddMemReg, AppendMemReg(nil, desc(0, 1<<20, pageSize)), []int{mem}, "file"},
		{"region of size 0", negotiated, AddMemReg, AppendMemReg(nil, desc(0, 0, 0)), []int{mem}, "empty"},
		{"region around the guest's end", negotiated, AddMemReg, AppendMemReg(nil, guestmem.RegionDesc{GuestAddr: math.MaxUint64 - 4095, Size: 2 * pageSize}), []int{mem}, "wraps"},
		{"region around the front-end's end", negotiated, AddMemReg, AppendMemReg(nil, guestmem.RegionDesc{UserAddr: math.MaxUint64 - 4095, Size: 2 * pageSize}), []int{mem}, "wraps"},
		{"region at no offset", negotiated, AddMemReg, AppendMemReg(nil, guestmem.RegionDesc{Size: pageSize, MmapOffset: math.MaxUint64 - 100}), []int{mem}, "file"},
		{"region of an eventfd", negotiated, AddMemReg, AppendMemReg(nil, desc(0, pageSize, 0)), []int{event}, "file"},
		{"second region fails", negotiated, SetMemTable, AppendMemTable(nil, []guestmem.RegionDesc{desc(0, pageSize, 0), desc(pageSize, 1<<40, 0)}), []int{mem, mem}, "file"},
		{"table overlaps", negotiated, SetMemTable, AppendMemTable(nil, []guestmem.RegionDesc{desc(0, 2*pageSize, 0), desc(pageSize, pageSize, 0)}), []int{mem, mem}, "overlap"},
		{"region overlaps", running, AddMemReg, AppendMemReg(nil, desc(1<<20-1, pageSize, 0)), []int{mem}, "overlap"},
		{"removal of nothing", negotiated, RemMemReg, AppendMemReg(nil, desc(0, pageSize, 0)), nil, "no region"},
		{"removal of a part", running, RemMemReg, AppendMemReg(nil, desc(0, pageSize, 0)), nil, "no region"},
		{"removal at another user address", running, RemMemReg, AppendMemReg(nil, guestmem.RegionDesc{Size: 1 << 20}), nil, "no region"},
		{"ring outside memory", running, SetVringAddr, addr(func(a *VringAddr) { a.Desc += 1 << 30 }), nil, "ring 0: its descriptor table"},
		{"ring over the end of memory", running, SetVringAddr, addr(func(a *VringAddr) { a.Used = userOffset + 1<<20 - 512 }), nil, "ring 0: its used ring"},
		{"ring around the end of all memory", running, SetVringAddr, addr(func(a *VringAddr) { a.Avail = math.MaxUint64 - 15 }), nil, "ring 0: its avail ring"},
		{"table without the ring", running, SetMemTable, AppendMemTable(nil, []guestmem.RegionDesc{desc(1<<30, 1<<20, 0)}), []int{mem}, "ring 0: its descriptor table"},
		{"table with the ring unaligned", running, SetMemTable, AppendMemTable(nil, []guestmem.RegionDesc{desc(0, 1<<19, 9)}), []int{mem}, "unaligned"},

		// Wrong time.
		{"other features while a ring runs", running, SetFeatures, AppendU64(nil, needed), nil, "while ring 0 runs"},
		{"other protocol features while a ring runs", running, SetProtocolFeatures, AppendU64(nil, ProtocolReplyAck), nil, "while ring 0 runs"},
		{"num while the ring runs", running, SetVringNum, state(0, 32), nil, "ring 0 runs"},
		{"base while the ring runs", running, SetVringBase, state(0, 0), nil, "ring 0 runs"},
		{"config not negotiated", ackOnly, SetConfig, ConfigAccess{Data: make([]byte, 1)}.Append(nil), nil, "CONFIG, which was not negotiated"},
		{"slots not negotiated", ackOnly, AddMemReg, AppendMemReg(nil, desc(0, pageSize, 0)), []int{mem}, "CONFIGURE_MEM_SLOTS, which was not negotiated"},
		{"status not negotiated", ackOnly, SetStatus, AppendU64(nil, 1), nil, "STATUS, which was not negotiated"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dev := new(fakeDevice)
			p := connect(t, dev)
			c.before(p)
			p.mustNot(c.words, c.request, c.payload, c.fds...)
			if n, _ := ParseU64(p.call(GetQueueNum, nil)); n != 2 {
				t.Fatal("the session does not go on")
			}
			// Once more, without an answer to say it in.
			p.send(c.request, c.payload, c.fds...)
			if err := p.ends(); err == nil || !strings.Contains(err.Error(), c.words) || !strings.HasPrefix(err.Error(), c.request.String()) {
				t.Fatalf("the session ended with %v", err)
			}
			if got := dev.told(); !strings.HasSuffix(got, "reset") {
				t.Fatalf("at the end: %q", got)
			}
		})
	}
}

// These cannot be answered, so they end the session at once.
func TestSessionEnds(t *testing.T) {
	for _, c := range []struct {
		name  string
		ack   bool
		bytes []byte
		fds   int
		words string
	}{
		{"version", true, Header{SetOwner, 0, 0}.Append(nil), 2, "version 0"},
		{"reply flag", true, Header{SetOwner, Version | FlagReply, 0}.Append(nil), 0, "reply flag"},
		{"flags", true, Header{SetOwner, Version | 1<<7, 0}.Append(nil), 0, "unknown flags 0x80"},
		{"size", true, Header{SetOwner, Version, MaxPayload + 1}.Append(nil), 2, "4097 bytes"},
		{"half a message", true, []byte{1, 0, 0}, 2, "unexpected EOF"},
		{"need_reply too early", false, Header{SetOwner, Version | FlagNeedReply, 0}.Append(nil), 2, "REPLY_ACK was not negotiated"},
		{"need_reply without REPLY_ACK", false, append(Header{SetProtocolFeatures, Version | FlagNeedReply, 8}.Append(nil), AppendU64(nil, 1<<40)...), 0, "bit-40"},
		{"base of no ring", true, append(Header{GetVringBase, Version | FlagNeedReply, 8}.Append(nil), VringState{9, 0}.Append(nil)...), 0, "no ring 9"},
		{"status too early", false, Header{GetStatus, Version, 0}.Append(nil), 0, "STATUS, which was not negotiated"},
		{"slots too early", false, Header{GetMaxMemSlots, Version, 0}.Append(nil), 0, "not negotiated"},
		{"enable too early", false, append(Header{SetVringEnable, Version, 8}.Append(nil), VringState{0, 1}.Append(nil)...), 0, "feature bit 30"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := connect(t, new(fakeDevice))
			if c.ack {
				p.must(SetProtocolFeatures, AppendU64(nil, Offered))
			}
			if err := p.conn.WriteRaw(c.bytes, devnull(t, c.fds)...); err != nil {
				t.Fatal(err)
			}
			if err := p.conn.uc.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if err := p.ends(); err == nil || !strings.Contains(err.Error(), c.words) {
				t.Fatalf("the session ended with %v", err)
			}
		})
	}
}
