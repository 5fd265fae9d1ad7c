package vfiouser

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

// Command is the number of a message ("Commands").
type Command uint16

// The commands. DMARead and DMAWrite are sent by servers, the others by clients.
const (
	Version          Command = 1
	DMAMap           Command = 2
	DMAUnmap         Command = 3
	GetInfo          Command = 4
	GetRegionInfo    Command = 5
	GetRegionIOFDs   Command = 6
	GetIRQInfo       Command = 7
	SetIRQs          Command = 8
	RegionRead       Command = 9
	RegionWrite      Command = 10
	DMARead          Command = 11
	DMAWrite         Command = 12
	Reset            Command = 13
	RegionWriteMulti Command = 15
	DeviceFeature    Command = 16
	MigDataRead      Command = 17
	MigDataWrite     Command = 18

	numCommands = 19
)

// A row says everything about one command. A command without a handler is known by name
// only, so that its refusal names it.
type row struct {
	name string
	why  string // why it has no handler
	// size is the exact payload of the request in bytes, or with atLeast the shortest one.
	size    int
	atLeast bool
	maxFDs  int          // descriptors that may come along
	kind    foreign.Kind // what each of them must be
	remedy  string       // what to send instead of another kind
	handle  func(*Session, *Message) (reply []byte, err error)
	show    func(payload []byte) string // request and reply in words
}

// table is the protocol: everything that is known about a command is in its row.
var table = [numCommands]row{
	Version:       {name: "VERSION", size: versionSize, atLeast: true, handle: (*Session).version, show: showVersion},
	DMAMap:        {name: "DMA_MAP", size: mappingSize, maxFDs: 1, kind: foreign.Memory, remedy: memoryRemedy, handle: (*Session).dmaMap, show: showMapping},
	DMAUnmap:      {name: "DMA_UNMAP", size: unmappingSize, handle: (*Session).dmaUnmap, show: showUnmapping},
	GetInfo:       {name: "DEVICE_GET_INFO", size: deviceInfoSize, handle: (*Session).getInfo, show: showDeviceInfo},
	GetRegionInfo: {name: "DEVICE_GET_REGION_INFO", size: regionInfoSize, handle: (*Session).getRegionInfo, show: showRegionInfo},
	// None of the regions has any: a client that asks gets an empty list.
	GetRegionIOFDs: {name: "DEVICE_GET_REGION_IO_FDS", size: regionIOFDsSize, handle: (*Session).getRegionIOFDs, show: showRegionIOFDs},
	GetIRQInfo:     {name: "DEVICE_GET_IRQ_INFO", size: irqInfoSize, handle: (*Session).getIRQInfo, show: showIRQInfo},
	SetIRQs:        {name: "DEVICE_SET_IRQS", size: irqSetSize, atLeast: true, maxFDs: MaxFDs, kind: foreign.Eventfd, remedy: "it has to be an eventfd", handle: (*Session).setIRQs, show: showIRQSet},
	RegionRead:     {name: "REGION_READ", size: accessSize, handle: (*Session).regionRead, show: showAccess},
	RegionWrite:    {name: "REGION_WRITE", size: accessSize + 1, atLeast: true, handle: (*Session).regionWrite, show: showAccess},
	Reset:          {name: "DEVICE_RESET", handle: (*Session).reset},

	DMARead:          {name: "DMA_READ", why: "a server sends it, not a client"},
	DMAWrite:         {name: "DMA_WRITE", why: "a server sends it, not a client"},
	RegionWriteMulti: {name: "REGION_WRITE_MULTI", why: "capability write_multiple was not negotiated"},
	DeviceFeature:    {name: "DEVICE_FEATURE", why: "migration is not supported"},
	MigDataRead:      {name: "MIG_DATA_READ", why: "migration is not supported"},
	MigDataWrite:     {name: "MIG_DATA_WRITE", why: "migration is not supported"},
}

// memoryRemedy is what to do about memory that cannot be mapped.
const memoryRemedy = "memory has to be a memfd, or a regular file of tmpfs, hugetlbfs or a local file system that is mounted here (QEMU: memory-backend-memfd,share=on)"

// row returns what is known about a command; of an unknown one, nothing.
func (c Command) row() row {
	if c < numCommands {
		return table[c]
	}
	return row{}
}

func (c Command) String() string {
	if name := c.row().name; name != "" {
		return name
	}
	return fmt.Sprintf("command %d", uint16(c))
}

// A Refusal is why a command was not carried out. The client receives Errno.
type Refusal struct {
	Errno unix.Errno
	Why   string
}

func (r *Refusal) Error() string { return r.Why }

func refuse(e unix.Errno, format string, args ...any) error {
	return &Refusal{e, fmt.Sprintf(format, args...)}
}

// admit checks a message against its row, before its handler sees it.
func (m *Message) admit(r *row) error {
	fds := len(m.Files) + m.Surplus
	switch {
	case r.name == "":
		return refuse(unix.ENOSYS, "no such command")
	case r.handle == nil:
		return refuse(unix.ENOTSUP, "%s", r.why)
	case m.Flags&^(FlagTypeMask|FlagNoReply) != 0:
		return refuse(unix.EINVAL, "flags %#x: only no_reply may be set in a command", m.Flags)
	case r.atLeast && len(m.Payload) < r.size:
		return refuse(unix.EINVAL, "payload of %d bytes, it has at least %d", len(m.Payload), r.size)
	case !r.atLeast && len(m.Payload) != r.size:
		return refuse(unix.EINVAL, "payload of %d bytes instead of %d", len(m.Payload), r.size)
	case fds > r.maxFDs:
		return refuse(unix.EINVAL, "%d descriptors came along, at most %d may", fds, r.maxFDs)
	}
	for _, f := range m.Files {
		if kind, what := f.Inspect(); kind != r.kind {
			return refuse(unix.EINVAL, "its descriptor is %s: %s", what, r.remedy)
		}
	}
	return nil
}
