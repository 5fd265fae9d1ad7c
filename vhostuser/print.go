package vhostuser

import (
	"fmt"
	"math/bits"
	"strings"

	"github.com/zvhost/zvhost/virtio/guestmem"
)

// protocolNames are the protocol features by bit number.
var protocolNames = [...]string{
	"MQ", "LOG_SHMFD", "RARP", "REPLY_ACK", "MTU", "BACKEND_REQ", "CROSS_ENDIAN",
	"CRYPTO_SESSION", "PAGEFAULT", "CONFIG", "BACKEND_SEND_FD", "HOST_NOTIFIER",
	"INFLIGHT_SHMFD", "RESET_DEVICE", "INBAND_NOTIFICATIONS", "CONFIGURE_MEM_SLOTS",
	"STATUS", "XEN_MMAP", "SHARED_OBJECT", "DEVICE_STATE", "GET_VRING_BASE_INFLIGHT",
	"GPA_ADDRESSES", "SHMEM",
}

// showProtocolMask names each protocol feature of a mask.
func showProtocolMask(mask uint64) string {
	if mask == 0 {
		return "none"
	}
	var names []string
	for ; mask != 0; mask &= mask - 1 {
		if bit := bits.TrailingZeros64(mask); bit < len(protocolNames) {
			names = append(names, protocolNames[bit])
		} else {
			names = append(names, fmt.Sprintf("bit-%d", bit))
		}
	}
	return strings.Join(names, "+")
}

// String shows a message in words, for a log: its name, its contents, its flags
// and descriptors. It never fails: of a payload that does not parse it shows
// the length.
func (m *Message) String() string {
	var b strings.Builder
	b.WriteString(m.Request.String())
	r := m.Request.row()
	switch reply := m.Flags&FlagReply != 0; {
	case reply && !r.replies:
		if v, err := ParseU64(m.Payload); err == nil && v == 0 {
			b.WriteString(" done")
		} else {
			b.WriteString(" refused")
		}
	case len(m.Payload) == 0 && reply:
		b.WriteString(" refused")
	case len(m.Payload) == 0:
	case r.show == nil:
		fmt.Fprintf(&b, " %d bytes", len(m.Payload))
	default:
		b.WriteByte(' ')
		b.WriteString(r.show(m.Payload))
	}
	if m.Flags&FlagNeedReply != 0 {
		b.WriteString(", need_reply")
	}
	if n := len(m.Files) + m.Surplus; n > 0 {
		fmt.Fprintf(&b, ", fds %d", n)
	}
	return b.String()
}

// unparsed is what the printers below return for a payload with the wrong length.
func unparsed(p []byte) string { return fmt.Sprintf("(%d bytes)", len(p)) }

func showU64(p []byte, format string) string {
	v, err := ParseU64(p)
	if err != nil {
		return unparsed(p)
	}
	return fmt.Sprintf(format, v)
}

func showHex(p []byte) string { return showU64(p, "%#x") }

func showNumber(p []byte) string { return showU64(p, "%d") }

func showProtocol(p []byte) string {
	v, err := ParseU64(p)
	if err != nil {
		return unparsed(p)
	}
	return showProtocolMask(v)
}

func showVringState(p []byte) string {
	v, err := ParseVringState(p)
	if err != nil {
		return unparsed(p)
	}
	return fmt.Sprintf("ring %d: %d", v.Index, v.Num)
}

func showVringAddr(p []byte) string {
	v, err := ParseVringAddr(p)
	if err != nil {
		return unparsed(p)
	}
	return fmt.Sprintf("ring %d: desc %#x, avail %#x, used %#x, log %#x, flags %#x", v.Index, v.Desc, v.Avail, v.Used, v.Log, v.Flags)
}

func showLogArea(p []byte) string {
	l, err := ParseLogArea(p)
	if err != nil {
		return unparsed(p)
	}
	return fmt.Sprintf("%#x bytes at %#x", l.Size, l.Offset)
}

// showStateTransfer shows a request; an answer has the same length.
func showStateTransfer(p []byte) string {
	t, err := ParseStateTransfer(p)
	switch {
	case err != nil:
		return showHex(p)
	case t.Direction == StateLoad:
		return "load"
	}
	return "save"
}

func showVringFile(p []byte) string {
	v, err := ParseVringFile(p)
	switch {
	case err != nil:
		return unparsed(p)
	case v.NoFD:
		return fmt.Sprintf("ring %d: none", v.Index)
	}
	return fmt.Sprintf("ring %d", v.Index)
}

func showRegion(d guestmem.RegionDesc) string {
	return fmt.Sprintf("[guest %#x, %#x bytes, user %#x, offset %#x]", d.GuestAddr, d.Size, d.UserAddr, d.MmapOffset)
}

func showMemTable(p []byte) string {
	regions, err := ParseMemTable(p)
	if err != nil {
		return unparsed(p)
	}
	words := make([]string, len(regions))
	for i, r := range regions {
		words[i] = showRegion(r)
	}
	return strings.Join(words, " ")
}

func showMemReg(p []byte) string {
	d, err := ParseMemReg(p)
	if err != nil {
		return unparsed(p)
	}
	return showRegion(d)
}

func showConfig(p []byte) string {
	c, err := ParseConfigAccess(p)
	if err != nil {
		return unparsed(p)
	}
	words := fmt.Sprintf("%d bytes at %d: %x", len(c.Data), c.Offset, c.Data)
	if c.Flags == ConfigMigration {
		words += " (migration)"
	}
	return words
}

func showInflight(p []byte) string {
	v, err := ParseInflightArea(p)
	if err != nil {
		return unparsed(p)
	}
	return fmt.Sprintf("%d queues of %d, %#x bytes at %#x", v.Queues, v.QueueSize, v.Bytes, v.Offset)
}
