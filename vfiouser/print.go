package vfiouser

import (
	"bytes"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// String shows a message in words, for a log: its name, what it says, its flags and
// descriptors. Of a payload that does not parse it shows the length.
func (m *Message) String() string {
	var b strings.Builder
	b.WriteString(m.Command.String())
	r := m.Command.row()
	switch reply := m.Flags&FlagReply != 0; {
	case reply && m.Flags&FlagError != 0:
		fmt.Fprintf(&b, " refused (%v)", unix.Errno(m.Errno))
	case len(m.Payload) == 0 && reply:
		b.WriteString(" done")
	case len(m.Payload) == 0:
	case r.show == nil:
		fmt.Fprintf(&b, " %d bytes", len(m.Payload))
	default:
		b.WriteByte(' ')
		b.WriteString(r.show(m.Payload))
	}
	if m.Flags&FlagNoReply != 0 {
		b.WriteString(", no_reply")
	}
	if n := len(m.Files) + m.Surplus; n > 0 {
		fmt.Fprintf(&b, ", fds %d", n)
	}
	return b.String()
}

// unparsed is what the printers say of a payload with a wrong length.
func unparsed(p []byte) string { return fmt.Sprintf("(%d bytes)", len(p)) }

func showVersion(p []byte) string {
	v, err := ParseVersion(p)
	if err != nil {
		return unparsed(p)
	}
	const most = 256
	data := bytes.TrimRight(v.Data, "\x00")
	if len(data) > most {
		return fmt.Sprintf("%d.%d %.*q...", v.Major, v.Minor, most, data)
	}
	return fmt.Sprintf("%d.%d %q", v.Major, v.Minor, data)
}

func showMapping(p []byte) string {
	m, err := ParseMapping(p)
	if err != nil {
		return unparsed(p)
	}
	return fmt.Sprintf("address %#x size %#x offset %#x flags %#x", m.Address, m.Size, m.Offset, m.Flags)
}

func showUnmapping(p []byte) string {
	u, err := ParseUnmapping(p)
	if err != nil {
		return unparsed(p)
	}
	return fmt.Sprintf("address %#x size %#x flags %#x", u.Address, u.Size, u.Flags)
}

func showDeviceInfo(p []byte) string {
	i, err := ParseDeviceInfo(p)
	if err != nil {
		return unparsed(p)
	}
	return fmt.Sprintf("flags %#x regions %d irqs %d", i.Flags, i.Regions, i.IRQs)
}

func showRegionInfo(p []byte) string {
	r, err := ParseRegionInfo(p)
	if err != nil {
		return unparsed(p)
	}
	return fmt.Sprintf("%d flags %#x size %#x", r.Index, r.Flags, r.Size)
}

func showRegionIOFDs(p []byte) string {
	r, err := ParseRegionIOFDs(p)
	if err != nil {
		return unparsed(p)
	}
	return fmt.Sprintf("%d flags %#x count %d", r.Index, r.Flags, r.Count)
}

func showIRQInfo(p []byte) string {
	i, err := ParseIRQInfo(p)
	if err != nil {
		return unparsed(p)
	}
	return fmt.Sprintf("%d flags %#x count %d", i.Index, i.Flags, i.Count)
}

func showIRQSet(p []byte) string {
	s, err := ParseIRQSet(p)
	if err != nil {
		return unparsed(p)
	}
	return fmt.Sprintf("%d flags %#x start %d count %d", s.Index, s.Flags, s.Start, s.Count)
}

// showAccess shows the data of a register access, but not more.
func showAccess(p []byte) string {
	a, err := ParseAccess(p)
	if err != nil {
		return unparsed(p)
	}
	s := fmt.Sprintf("region %d offset %#x count %d", a.Region, a.Offset, a.Count)
	if n := len(a.Data); n > 0 && n <= 8 {
		s += fmt.Sprintf(" data %x", a.Data)
	}
	return s
}
