package vfiouser

import "testing"

// A sentMessage is a command of a client's, and how many bytes the reply to it may have.
type sentMessage struct {
	c       Command
	payload []byte
	fds     []int
	reply   int
}

// What QEMU 11.1 and cloud-hypervisor's client send, with the sizes and argsz that they use, and
// how long a reply may be. QEMU refuses a reply that is longer than its buffer, which is the
// request's but for reads. cloud-hypervisor reads exactly so many bytes.
func TestClientsMessages(t *testing.T) {
	mem, ev := memfd(t, 1<<20), eventfd(t)
	const exact = true
	for _, client := range []struct {
		name  string
		minor uint16
		caps  string
		exact bool
		sent  []sentMessage
	}{
		{"QEMU", 0, `{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, "migration": {"max_bitmap_size": 268435456, "pgsize": 4096}}}`, !exact, []sentMessage{
			{DMAMap, Mapping{32, 3, 0, 0, 0x100000}.Append(nil), []int{mem}, 48},
			{DMAMap, Mapping{32, 1, 0, 0xfffc0000, 0x40000}.Append(nil), nil, 48},
			{GetInfo, DeviceInfo{16, 0, 0, 0}.Append(nil), nil, 32},
			{GetRegionInfo, RegionInfo{32, 0, 0, 0, 0, 0}.Append(nil), nil, 48},
			{GetIRQInfo, IRQInfo{16, 0, fakeMSIX, 0}.Append(nil), nil, 32},
			{RegionRead, Access{0, fakeRegion, 4096, nil}.Append(nil), nil, 32 + 4096},
			{RegionWrite, Access{4, fakeRegion, 2, []byte{0, 4}}.Append(nil), nil, 34},
			// An interrupt type that the device does not have is disabled; a vector has no eventfd
			// at first, and then one.
			{SetIRQs, IRQSet{20, IRQDataNone | IRQTrigger, fakeNoIRQ, 0, 0, nil}.Append(nil), nil, 36},
			{SetIRQs, IRQSet{20, IRQDataEventfd | IRQTrigger, fakeMSIX, 0, 1, nil}.Append(nil), nil, 36},
			{SetIRQs, IRQSet{20, IRQDataEventfd | IRQTrigger, fakeMSIX, 0, 1, nil}.Append(nil), []int{ev}, 36},
			{SetIRQs, IRQSet{20, IRQDataNone | IRQTrigger, fakeMSIX, 0, 0, nil}.Append(nil), nil, 36},
			{Reset, nil, nil, 16},
			{DMAUnmap, Unmapping{24, 0, 0, 0x100000}.Append(nil), nil, 40},
			{DMAUnmap, Unmapping{24, UnmapAll, 0, 0}.Append(nil), nil, 40},
		}},
		{"cloud-hypervisor", 1, `{"capabilities":{"max_msg_fds":1,"max_data_xfer_size":1048576,"migration":{"pgsize":4096}}}`, exact, []sentMessage{
			{GetInfo, DeviceInfo{32, 0, 0, 0}.Append(nil), nil, 32}, // argsz with the header
			{GetRegionInfo, RegionInfo{32, 0, fakeNone, 0, 0, 0}.Append(nil), nil, 48},
			{GetIRQInfo, IRQInfo{16, 0, fakeNoIRQ, 0}.Append(nil), nil, 32},
			{RegionRead, Access{0, fakeRegion, 4, nil}.Append(nil), nil, 32 + 4},
			{RegionWrite, Access{0, fakeRegion, 4, []byte{1, 2, 3, 4}}.Append(nil), nil, 32},
			{DMAMap, Mapping{32, 3, 0, 0, 0x100000}.Append(nil), []int{mem}, 16},
			{SetIRQs, IRQSet{20, IRQDataEventfd | IRQTrigger, fakeMSIX, 0, 2, nil}.Append(nil), []int{ev, ev}, 16},
			{SetIRQs, IRQSet{20, IRQDataNone | IRQTrigger, fakeMSIX, 0, 0, nil}.Append(nil), nil, 16},
			{DMAUnmap, Unmapping{24, 0, 0, 0x100000}.Append(nil), nil, 40},
			{Reset, nil, nil, 16},
		}},
	} {
		t.Run(client.name, func(t *testing.T) {
			p := connect(t, newFake())
			version := VersionData{0, client.minor, append([]byte(client.caps), 0)}.Append(nil)
			b := p.must(Version, version)
			if v, err := ParseVersion(b); err != nil || v.Minor != client.minor || len(b) > len(version) {
				t.Errorf("version %+v, %v", v, err)
			}
			for _, m := range client.sent {
				b := p.must(m.c, m.payload, m.fds...)
				if n := HeaderSize + len(b); n > m.reply || client.exact && n != m.reply {
					t.Errorf("%v: a reply of %d bytes, %d are expected", m.c, n, m.reply)
				}
			}
			p.quit()
		})
	}
}
