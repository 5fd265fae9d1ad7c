package vfiouser

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The bytes of each message, as the protocol's tables lay them out, and the words for it.
func TestGolden(t *testing.T) {
	for _, c := range []struct {
		h       Header
		payload []byte
		wire    string
		words   string
	}{
		{Header{ID: 0x0102, Command: Version}, VersionData{0, 1, []byte("{}\x00")}.Append(nil),
			"0201 0100 17000000 00000000 00000000 | 0000 0100 7b7d00", `VERSION 0.1 "{}"`},
		{Header{ID: 1, Command: DMAMap}, Mapping{32, MapRead | MapWrite, 0x1122334455667788, 0x8877665544332211, 0x1000}.Append(nil),
			"0100 0200 30000000 00000000 00000000 | 20000000 03000000 8877665544332211 1122334455667788 0010000000000000",
			"DMA_MAP address 0x8877665544332211 size 0x1000 offset 0x1122334455667788 flags 0x3"},
		{Header{ID: 2, Command: DMAUnmap}, Unmapping{24, UnmapAll, 0x1000, 0x2000}.Append(nil),
			"0200 0300 28000000 00000000 00000000 | 18000000 02000000 0010000000000000 0020000000000000",
			"DMA_UNMAP address 0x1000 size 0x2000 flags 0x2"},
		{Header{ID: 3, Command: GetInfo, Flags: FlagReply}, DeviceInfo{16, DeviceReset | DevicePCI, 9, 5}.Append(nil),
			"0300 0400 20000000 01000000 00000000 | 10000000 03000000 09000000 05000000", "DEVICE_GET_INFO flags 0x3 regions 9 irqs 5"},
		{Header{ID: 4, Command: GetRegionInfo}, RegionInfo{32, 3, 7, 0, 0x1000, 0}.Append(nil),
			"0400 0500 30000000 00000000 00000000 | 20000000 03000000 07000000 00000000 0010000000000000 0000000000000000",
			"DEVICE_GET_REGION_INFO 7 flags 0x3 size 0x1000"},
		{Header{ID: 5, Command: GetRegionIOFDs}, RegionIOFDs{16, 0, 2, 0}.Append(nil),
			"0500 0600 20000000 00000000 00000000 | 10000000 00000000 02000000 00000000", "DEVICE_GET_REGION_IO_FDS 2 flags 0x0 count 0"},
		{Header{ID: 6, Command: GetIRQInfo}, IRQInfo{16, 1, 2, 5}.Append(nil),
			"0600 0700 20000000 00000000 00000000 | 10000000 01000000 02000000 05000000", "DEVICE_GET_IRQ_INFO 2 flags 0x1 count 5"},
		{Header{ID: 7, Command: SetIRQs}, IRQSet{22, IRQDataBool | IRQTrigger, 2, 3, 2, []byte{1, 0}}.Append(nil),
			"0700 0800 26000000 00000000 00000000 | 16000000 22000000 02000000 03000000 02000000 0100",
			"DEVICE_SET_IRQS 2 flags 0x22 start 3 count 2"},
		{Header{ID: 8, Command: RegionRead}, Access{0x10, 7, 4, nil}.Append(nil),
			"0800 0900 20000000 00000000 00000000 | 1000000000000000 07000000 04000000", "REGION_READ region 7 offset 0x10 count 4"},
		{Header{ID: 9, Command: RegionWrite, Flags: FlagNoReply}, Access{0x3000, 0, 2, []byte{1, 0}}.Append(nil),
			"0900 0a00 22000000 10000000 00000000 | 0030000000000000 00000000 02000000 0100",
			"REGION_WRITE region 0 offset 0x3000 count 2 data 0100, no_reply"},
		{Header{ID: 10, Command: Reset}, nil, "0a00 0d00 10000000 00000000 00000000 |", "DEVICE_RESET"},
		{Header{ID: 10, Command: Reset, Flags: FlagReply}, nil, "0a00 0d00 10000000 01000000 00000000 |", "DEVICE_RESET done"},
		{Header{ID: 11, Command: 77, Flags: FlagReply | FlagError, Errno: uint32(unix.ENOSYS)}, nil,
			"0b00 4d00 10000000 21000000 26000000 |", "command 77 refused (function not implemented)"},
		{Header{ID: 12, Command: DMAMap}, []byte{1, 2}, "0c00 0200 12000000 00000000 00000000 | 0102", "DMA_MAP (2 bytes)"},
	} {
		c.h.Size = uint32(HeaderSize + len(c.payload))
		wire := append(c.h.Append(nil), c.payload...)
		want, err := hex.DecodeString(strings.NewReplacer(" ", "", "|", "").Replace(c.wire))
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprintf("%x", wire) != fmt.Sprintf("%x", want) {
			t.Errorf("%s:\n%x, want\n%x", c.words, wire, want)
		}
		h, err := ParseHeader(wire[:HeaderSize])
		if err != nil || h != c.h {
			t.Errorf("%s: header %+v, %v", c.words, h, err)
		}
		if got := (&Message{Header: h, Payload: c.payload}).String(); got != c.words {
			t.Errorf("%q, want %q", got, c.words)
		}
	}
}

// What clients propose, and what they get.
func TestVersion(t *testing.T) {
	for _, c := range []struct {
		name         string
		major, minor uint16
		data         string
		wantMinor    uint16
		want         string // the reply's capabilities
		errno        unix.Errno
		why          string
	}{
		{name: "none", minor: 1, wantMinor: 1},
		{name: "QEMU 11.1", data: `{"capabilities": {"migration": {"pgsize": 4096, "max_bitmap_size": 268435456}, "max_msg_fds": 16, "max_data_xfer_size": 1048576, "pgsizes": 4096, "max_dma_maps": 65535}}` + "\x00",
			want: `{"capabilities":{"max_msg_fds":16,"max_dma_maps":509,"pgsizes":4096,"max_data_xfer_size":1048576}}` + "\x00"},
		{name: "cloud-hypervisor", minor: 1, data: `{"capabilities":{"max_msg_fds":1,"max_data_xfer_size":1048576,"migration":{"pgsize":4096}}}` + "\x00",
			wantMinor: 1, want: `{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576}}` + "\x00"},
		{name: "a later minor", minor: 7, wantMinor: 1},
		{name: "empty object", data: "{}\x00", want: "{}\x00"},
		{name: "empty capabilities", data: `{"capabilities":{}}` + "\x00", want: `{"capabilities":{}}` + "\x00"},
		// The reply is not longer than the request; what is left out has the protocol's default.
		{name: "no room", data: `{"capabilities":{"max_msg_fds":1}}` + "\x00", want: `{"capabilities":{}}` + "\x00"},
		{name: "room for one", data: `{"capabilities":{"max_msg_fds":1,"max_dma_maps":9}}` + "\x00", want: `{"capabilities":{"max_msg_fds":16}}` + "\x00"},
		{name: "only a NUL", data: "\x00", errno: unix.EINVAL, why: "version data"},
		{name: "unknown ones", data: `{"capabilities":{"twin_socket":{"supported":true},"write_multiple":true,"x":[1,{}]},"y":null}` + "\x00", want: `{"capabilities":{}}` + "\x00"},

		{name: "major", major: 1, errno: unix.ENOTSUP, why: "major version 1"},
		{name: "no NUL", data: `{}`, errno: unix.EINVAL, why: "without a NUL"},
		{name: "no JSON", data: "{\x00", errno: unix.EINVAL, why: "version data"},
		{name: "a NUL inside", data: "{}\x00 \x00", errno: unix.EINVAL, why: "version data"},
		{name: "an array", data: "[]\x00", errno: unix.EINVAL, why: "version data"},
		{name: "capabilities no object", data: `{"capabilities":3}` + "\x00", errno: unix.EINVAL, why: "version data"},
		{name: "negative", data: `{"capabilities":{"max_msg_fds":-1}}` + "\x00", errno: unix.EINVAL, why: "max_msg_fds"},
		{name: "fraction", data: `{"capabilities":{"max_dma_maps":1.5}}` + "\x00", errno: unix.EINVAL, why: "max_dma_maps"},
		{name: "huge", data: `{"capabilities":{"max_data_xfer_size":1e99}}` + "\x00", errno: unix.EINVAL, why: "max_data_xfer_size"},
		{name: "pages", data: `{"capabilities":{"pgsizes":65536}}` + "\x00", errno: unix.EINVAL, why: "pgsizes 0x10000"},
		{name: "long", data: strings.Repeat(" ", maxVersionData) + "{}\x00", errno: unix.EINVAL, why: "at most"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := connect(t, newFake())
			b, errno := p.call(Version, VersionData{c.major, c.minor, []byte(c.data)}.Append(nil))
			if errno != c.errno {
				t.Fatalf("%v, want %v", errno, c.errno)
			}
			if errno != 0 {
				p.ends(c.why)
				return
			}
			v, err := ParseVersion(b)
			if err != nil || v.Major != 0 || v.Minor != c.wantMinor || string(v.Data) != c.want {
				t.Errorf("%d.%d %q, %v, want 0.%d %q", v.Major, v.Minor, v.Data, err, c.wantMinor, c.want)
			}
			p.quit()
		})
	}
	t.Run("the client's limit", func(t *testing.T) {
		p := connect(t, newFake())
		p.must(Version, VersionData{0, 1, []byte(`{"capabilities":{"max_data_xfer_size":8}}` + "\x00")}.Append(nil))
		p.must(RegionRead, Access{0, 0, 8, nil}.Append(nil))
		if _, errno := p.call(RegionRead, Access{0, 0, 9, nil}.Append(nil)); errno != unix.EINVAL {
			t.Error(errno)
		}
		p.quit()
	})
	t.Run("two bytes", func(t *testing.T) {
		p := connect(t, newFake())
		if _, errno := p.call(Version, []byte{0, 0}); errno != unix.EINVAL {
			t.Error(errno)
		}
		p.ends("at least 4")
	})
}

// docs/vfio-user.md has a row for each command, and says of each what the table says.
func TestDocumentedCommands(t *testing.T) {
	b, err := os.ReadFile("../docs/vfio-user.md")
	if err != nil {
		t.Fatal(err)
	}
	for c := range Command(numCommands) {
		r := c.row()
		if r.name == "" {
			continue
		}
		state := "supported"
		if r.handle == nil {
			state = "not supported"
		}
		if want := fmt.Sprintf("| %s | %d | %s |", r.name, c, state); !strings.Contains(string(b), want) {
			t.Errorf("docs/vfio-user.md has no row %q", want)
		}
	}
}

// What a client proposes does not fill the log, however long it is.
func TestVersionLogLines(t *testing.T) {
	long := strings.Repeat("9", maxVersionData-100)
	for _, data := range []string{
		`{"capabilities":{"max_data_xfer_size":` + long + `}}`,
		`{"capabilities":{"max_data_xfer_size":"` + long + `x"}}`,
		`{"capabilities":` + long + `}`,
		long + "x",
	} {
		p := connect(t, newFake())
		if _, errno := p.call(Version, VersionData{0, 1, append([]byte(data), 0)}.Append(nil)); errno != unix.EINVAL {
			t.Error(errno)
		}
		err := <-p.done
		_ = p.conn.Close()
		p.m.Close()
		const most = 1024
		if err == nil || len(err.Error()) > most {
			t.Errorf("the session ended with %.100v...", err)
		}
		for _, l := range p.logs {
			if len(l) > most {
				t.Errorf("a log line of %d bytes: %.100s...", len(l), l)
			}
		}
	}
}
