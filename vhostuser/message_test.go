package vhostuser

import (
	"bytes"
	"encoding/hex"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The bytes are written down by hand from "Message Specification" and the C
// structs there (struct vhost_vring_state, vhost_vring_addr, VhostUserMemory,
// VhostUserMemRegMsg, VhostUserConfig).
func TestGoldenBytes(t *testing.T) {
	region := guestmem.RegionDesc{GuestAddr: 0x100000, Size: 0x40000000, UserAddr: 0x7f1234000000, MmapOffset: 0xc0000}
	regionHex := "0000100000000000 0000004000000000 00000034127f0000 00000c0000000000"
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"header of GET_FEATURES", Header{GetFeatures, Version, 0}.Append(nil), "01000000 01000000 00000000"},
		{"header of SET_VRING_ADDR with need_reply", Header{SetVringAddr, Version | FlagNeedReply, 40}.Append(nil), "09000000 09000000 28000000"},
		{"header of a GET_CONFIG answer", Header{GetConfig, Version | FlagReply, 108}.Append(nil), "18000000 05000000 6c000000"},
		{"u64", AppendU64(nil, 0x1_4000_0200), "0002004001000000"},
		{"vring state", VringState{3, 256}.Append(nil), "03000000 00010000"},
		{"vring addr", VringAddr{Index: 1, Flags: 1, Desc: 0x1000, Used: 0x3000, Avail: 0x2000, Log: 0x4000}.Append(nil),
			"01000000 01000000 0010000000000000 0030000000000000 0020000000000000 0040000000000000"},
		{"log", LogArea{Size: 0x20000, Offset: 0x1000}.Append(nil), "0000020000000000 0010000000000000"},
		{"device state transfer", StateTransfer{Direction: StateLoad}.Append(nil), "01000000 00000000"},
		{"config change of the back-end", Header{Request(BackConfigChange), Version, 0}.Append(nil), "02000000 01000000 00000000"},
		{"vring file", VringFile{Index: 2}.Append(nil), "0200000000000000"},
		{"vring file without fd", VringFile{Index: 255, NoFD: true}.Append(nil), "ff01000000000000"},
		{"memory table", AppendMemTable(nil, []guestmem.RegionDesc{region, region}), "02000000 00000000" + regionHex + regionHex},
		{"memory region", AppendMemReg(nil, region), "0000000000000000" + regionHex},
		{"config", ConfigAccess{Offset: 32, Flags: ConfigMigration, Data: []byte{0xaa, 0xbb}}.Append(nil), "20000000 02000000 01000000 aabb"},
	} {
		if want := unhex(t, c.want); !bytes.Equal(c.got, want) {
			t.Errorf("%s:\n\thave %x\n\twant %x", c.name, c.got, want)
		}
	}
}

func same[T any](t *testing.T, want T, parse func([]byte) (T, error), wire []byte) {
	t.Helper()
	got, err := parse(wire)
	if err != nil {
		t.Errorf("%+v: %v", want, err)
	} else if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	// Every shorter and every longer payload is refused.
	for n := range len(wire) {
		if got, err := parse(wire[:n]); err == nil {
			t.Errorf("%d of %d bytes were taken as %+v", n, len(wire), got)
		}
	}
	if got, err := parse(append(wire[:len(wire):len(wire)], 0)); err == nil {
		t.Errorf("a byte too many was taken as %+v", got)
	}
}

func TestParse(t *testing.T) {
	same(t, Header{SetConfig, Version | FlagNeedReply, 77}, ParseHeader, Header{SetConfig, Version | FlagNeedReply, 77}.Append(nil))
	same(t, LogArea{1, math.MaxUint64}, ParseLogArea, LogArea{1, math.MaxUint64}.Append(nil))
	same(t, math.MaxUint64, ParseU64, AppendU64(nil, math.MaxUint64))
	state := VringState{math.MaxUint32, 1 << 31}
	same(t, state, ParseVringState, state.Append(nil))
	addr := VringAddr{1, 2, 3, 4, 5, 6}
	same(t, addr, ParseVringAddr, addr.Append(nil))
	file := VringFile{200, true}
	same(t, file, ParseVringFile, file.Append(nil))
	regions := []guestmem.RegionDesc{{GuestAddr: 1, Size: 2, UserAddr: 3, MmapOffset: 4}, {GuestAddr: 5, Size: 6, UserAddr: 7, MmapOffset: math.MaxUint64}}
	same(t, regions, ParseMemTable, AppendMemTable(nil, regions))
	same(t, regions[1], ParseMemReg, AppendMemReg(nil, regions[1]))
	config := ConfigAccess{Offset: 9, Flags: 1, Data: []byte{1, 2, 3}}
	same(t, config, ParseConfigAccess, config.Append(nil))
}

func TestParseRefuses(t *testing.T) {
	region := guestmem.RegionDesc{Size: 1}
	for name, err := range map[string]error{
		"unknown bits beside a ring":  second(ParseVringFile(AppendU64(nil, 1<<9))),
		"high bits beside a ring":     second(ParseVringFile(AppendU64(nil, 1<<63))),
		"no regions":                  second(ParseMemTable(AppendMemTable(nil, nil))),
		"nine regions":                second(ParseMemTable(AppendMemTable(nil, make([]guestmem.RegionDesc, 9)))),
		"2^32-1 regions":              second(ParseMemTable(append([]byte{255, 255, 255, 255, 0, 0, 0, 0}, AppendMemReg(nil, region)[8:]...))),
		"no configuration":            second(ParseConfigAccess(ConfigAccess{}.Append(nil))),
		"too much configuration":      second(ParseConfigAccess(ConfigAccess{Data: make([]byte, MaxConfig+1)}.Append(nil))),
		"unknown configuration flags": second(ParseConfigAccess(ConfigAccess{Flags: 2, Data: []byte{1}}.Append(nil))),
	} {
		if err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestHeaderCheck(t *testing.T) {
	for _, c := range []struct {
		flags, size uint32
		reply       bool
		want        string // part of the error, empty: none
	}{
		{flags: Version},
		{flags: Version | FlagNeedReply, size: MaxPayload},
		{flags: Version | FlagReply, reply: true},
		{flags: 0, want: "version 0"},
		{flags: 2, want: "version 2"},
		{flags: 3, want: "version 3"},
		{flags: Version | FlagReply, want: "reply flag"},
		{flags: Version, reply: true, want: "a reply was due"},
		{flags: Version | FlagReply | FlagNeedReply, reply: true, want: "unknown flags 0x8"},
		{flags: Version | 1<<4, want: "unknown flags 0x10"},
		{flags: Version | 1<<31, want: "unknown flags 0x80000000"},
		{flags: Version, size: MaxPayload + 1, want: "4097 bytes"},
		{flags: Version, size: math.MaxUint32, want: "4294967295 bytes"},
	} {
		err := Header{SetOwner, c.flags, c.size}.check(c.reply)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%+v: %v", c, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "SET_OWNER")):
			t.Errorf("%+v: error %v", c, err)
		}
	}
}

// The table knows every message of the protocol, and every one that a session
// acts on is fully described.
func TestTable(t *testing.T) {
	if table[0].name != "" {
		t.Error("message 0 is none")
	}
	names := make(map[string]bool)
	for r := Request(1); r < numRequests; r++ {
		row := table[r]
		if row.name == "" || names[row.name] {
			t.Errorf("message %d has no name of its own: %q", uint32(r), row.name)
		}
		names[row.name] = true
		switch {
		case row.handle == nil:
			if row.needs&Offered != 0 {
				t.Errorf("%v: its protocol feature is offered, but nothing handles it", r)
			}
		case row.needs&^Offered != 0:
			t.Errorf("%v: needs %s, which is not offered", r, showProtocolMask(row.needs))
		case (row.size != 0 || row.replies) && row.show == nil:
			t.Errorf("%v: nothing shows its payload", r)
		case row.emptyOnError && !row.replies:
			t.Errorf("%v: an error answer without an answer", r)
		}
	}
	// Spot checks of the numbers against the protocol's ":id:" lines.
	for r, id := range map[Request]uint32{
		GetFeatures: 1, SetMemTable: 5, SetVringErr: 14, GetProtocolFeatures: 15, SetVringEnable: 18,
		SetVringEndian: 23, GetConfig: 24, GetInflightFD: 31, ResetDevice: 34, GetMaxMemSlots: 36,
		RemMemReg: 38, SetStatus: 39, GetStatus: 40, SetDeviceStateFD: 42, CheckDeviceState: 43,
	} {
		if uint32(r) != id {
			t.Errorf("%v has number %d instead of %d", r, uint32(r), id)
		}
	}
	for mask, bit := range map[uint64]int{
		ProtocolMQ: 0, ProtocolReplyAck: 3, ProtocolConfig: 9, ProtocolInflightShmfd: 12, ProtocolResetDevice: 13,
		ProtocolConfigureMemSlots: 15, ProtocolStatus: 16, ProtocolDeviceState: 19,
	} {
		if mask != 1<<bit {
			t.Errorf("protocol feature %s is %#x instead of bit %d", showProtocolMask(mask), mask, bit)
		}
	}
}

func TestMessageString(t *testing.T) {
	region := guestmem.RegionDesc{GuestAddr: 0, Size: 0x1000, UserAddr: 0x2000, MmapOffset: 0x3000}
	for _, c := range []struct {
		m    Message
		want string
	}{
		{Message{Header: Header{Request: SetOwner}}, "SET_OWNER"},
		{Message{Header: Header{Request: 77}}, "message 77"},
		{Message{Header: Header{Request: 77}, Payload: make([]byte, 3)}, "message 77 3 bytes"},
		{Message{Header: Header{Request: SetFeatures}, Payload: AppendU64(nil, 0x120000000)}, "SET_FEATURES 0x120000000"},
		{Message{Header: Header{Request: SetFeatures}, Payload: []byte{1}}, "SET_FEATURES (1 bytes)"},
		{Message{Header: Header{Request: SetProtocolFeatures, Flags: FlagNeedReply}, Payload: AppendU64(nil, ProtocolMQ|ProtocolConfig|1<<40)},
			"SET_PROTOCOL_FEATURES MQ+CONFIG+bit-40, need_reply"},
		{Message{Header: Header{Request: SetProtocolFeatures}, Payload: AppendU64(nil, 0)}, "SET_PROTOCOL_FEATURES none"},
		{Message{Header: Header{Request: GetQueueNum, Flags: FlagReply}, Payload: AppendU64(nil, 4)}, "GET_QUEUE_NUM 4"},
		{Message{Header: Header{Request: SetVringNum}, Payload: VringState{1, 128}.Append(nil)}, "SET_VRING_NUM ring 1: 128"},
		{Message{Header: Header{Request: SetVringNum, Flags: FlagReply}, Payload: AppendU64(nil, 0)}, "SET_VRING_NUM done"},
		{Message{Header: Header{Request: SetVringNum, Flags: FlagReply}, Payload: AppendU64(nil, 1)}, "SET_VRING_NUM refused"},
		{Message{Header: Header{Request: GetConfig, Flags: FlagReply}}, "GET_CONFIG refused"},
		{Message{Header: Header{Request: SetConfig}, Payload: ConfigAccess{Offset: 32, Flags: 1, Data: []byte{1, 2}}.Append(nil)}, "SET_CONFIG 2 bytes at 32: 0102 (migration)"},
		{Message{Header: Header{Request: SetVringKick}, Payload: VringFile{Index: 3}.Append(nil), Surplus: 1}, "SET_VRING_KICK ring 3, fds 1"},
		{Message{Header: Header{Request: SetVringCall}, Payload: VringFile{Index: 3, NoFD: true}.Append(nil)}, "SET_VRING_CALL ring 3: none"},
		{Message{Header: Header{Request: SetVringAddr}, Payload: VringAddr{1, 0, 0x10, 0x30, 0x20, 0}.Append(nil)},
			"SET_VRING_ADDR ring 1: desc 0x10, avail 0x20, used 0x30, log 0x0, flags 0x0"},
		{Message{Header: Header{Request: SetLogBase}, Payload: LogArea{0x40, 0x1000}.Append(nil)}, "SET_LOG_BASE 0x40 bytes at 0x1000"},
		{Message{Header: Header{Request: SetLogBase}, Payload: make([]byte, 8)}, "SET_LOG_BASE (8 bytes)"},
		{Message{Header: Header{Request: SetMemTable}, Payload: AppendMemTable(nil, []guestmem.RegionDesc{region})},
			"SET_MEM_TABLE [guest 0x0, 0x1000 bytes, user 0x2000, offset 0x3000]"},
		{Message{Header: Header{Request: AddMemReg}, Payload: AppendMemReg(nil, region)},
			"ADD_MEM_REG [guest 0x0, 0x1000 bytes, user 0x2000, offset 0x3000]"},
	} {
		if got := c.m.String(); got != c.want {
			t.Errorf("have %q, want %q", got, c.want)
		}
	}
}
