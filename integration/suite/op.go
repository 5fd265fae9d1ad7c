package suite

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/zvhost/zvhost/internal/zonemodel"
	"github.com/zvhost/zvhost/virtio/blkclient"
	"github.com/zvhost/zvhost/virtio/driver"
)

// An Op is one request of a batch, and its outcome.
type Op struct {
	Queue  int
	Type   uint32 // driver.TypeIn and so on
	Sector uint64
	// Bytes is the length of the data; of a discard, write-zeroes or secure erase
	// that of its one segment, which begins at Sector.
	Bytes uint64
	Flags uint32 // of that segment

	status  zonemodel.Status
	at      uint64 // sector of an append
	written uint32 // the length in the used ring
	most    uint32 // that this may be: all that the device may write
	wrote   []byte // what was to be written
	got     []byte // what was read
}

// opNames are the types as scripts have them.
var opNames = map[uint32]string{
	driver.TypeIn: "read", driver.TypeOut: "write", driver.TypeFlush: "flush", driver.TypeGetID: "id",
	driver.TypeGetLifetime: "lifetime", driver.TypeDiscard: "discard", driver.TypeWriteZeroes: "write-zeroes",
	driver.TypeSecureErase: "secure-erase", driver.TypeZoneAppend: "append", driver.TypeZoneReport: "report",
	driver.TypeZoneOpen: "open", driver.TypeZoneClose: "close", driver.TypeZoneFinish: "finish",
	driver.TypeZoneReset: "reset", driver.TypeZoneResetAll: "reset-all",
}

// String is the request in words, as a script has it.
func (o *Op) String() string {
	name, ok := opNames[o.Type]
	if !ok {
		name = "type-" + strconv.FormatUint(uint64(o.Type), 10)
	}
	s := fmt.Sprintf("q%d %s %d %d", o.Queue, name, o.Sector, o.Bytes)
	if o.Flags != 0 {
		s += fmt.Sprintf(" flags=%d", o.Flags)
	}
	return s
}

// Outcome is the answer in words.
func (o *Op) Outcome() string {
	if o.Type == driver.TypeZoneAppend && o.status == zonemodel.OK {
		return fmt.Sprintf("%v at %d", o.status, o.at)
	}
	return o.status.String()
}

// parseOp reads what String writes.
func parseOp(text string) (*Op, error) {
	f := strings.Fields(text)
	if len(f) < 4 || len(f) > 5 || !strings.HasPrefix(f[0], "q") {
		return nil, fmt.Errorf("%q is no request: want \"q0 append 256 4096\": queue, type, sector, bytes", text)
	}
	number := func(s string, bits int) (n uint64, err error) {
		if n, err = strconv.ParseUint(s, 10, bits); err != nil {
			err = fmt.Errorf("%q: %q is no number that can stand there", text, s)
		}
		return n, err
	}
	o := new(Op)
	queue, err := number(f[0][1:], 15)
	if err != nil {
		return nil, err
	}
	o.Queue = int(queue)
	if n, ok := strings.CutPrefix(f[1], "type-"); ok {
		typ, err := number(n, 32)
		if err != nil {
			return nil, err
		}
		o.Type = uint32(typ)
	} else if o.Type, ok = typeNamed(f[1]); !ok {
		return nil, fmt.Errorf("%q: there is no request called %q", text, f[1])
	}
	if o.Sector, err = number(f[2], 64); err != nil {
		return nil, err
	}
	if o.Bytes, err = number(f[3], 64); err != nil || len(f) == 4 {
		return o, err
	}
	flags, err := number(strings.TrimPrefix(f[4], "flags="), 32)
	o.Flags = uint32(flags)
	return o, err
}

func typeNamed(name string) (uint32, bool) {
	for typ, n := range opNames {
		if n == name {
			return typ, true
		}
	}
	return 0, false
}

// hasSegment says whether requests of that type carry a segment.
func hasSegment(typ uint32) bool {
	return typ == driver.TypeDiscard || typ == driver.TypeWriteZeroes || typ == driver.TypeSecureErase
}

// hasData says whether the request moves a write pointer, or may.
func (o *Op) hasData() bool { return o.Type == driver.TypeOut || o.Type == driver.TypeZoneAppend }

// room is how much of a request's buffer it takes.
func (o *Op) room() uint64 {
	if hasSegment(o.Type) {
		return driver.SegmentBytes
	}
	return o.Bytes
}

// dress makes r carry o; fill tells its data from all other.
func (o *Op) dress(r *blkclient.Request, fill uint64) {
	r.Type, r.Sector = o.Type, o.Sector
	r.LinuxFooter = fill&1 != 0 // the specification's one is shorter
	r.SetLen(int(o.room()))
	switch {
	case o.Type == driver.TypeZoneAppend && r.LinuxFooter:
		o.most = driver.LinuxFooterBytes
	case o.Type == driver.TypeZoneAppend:
		o.most = driver.AppendFooterBytes
	case driver.DataIsWritten(o.Type):
		o.most = uint32(o.Bytes) + driver.StatusBytes
	default:
		o.most = driver.StatusBytes
	}
	switch {
	case hasSegment(o.Type):
		driver.PutSegment(r.Data, o.Sector, uint32(o.Bytes/zonemodel.SectorBytes), o.Flags)
	case driver.DataIsWritten(o.Type):
		stain(r.Data)
	default:
		pattern(r.Data, fill)
		if o.hasData() {
			o.wrote = append([]byte(nil), r.Data...)
		}
	}
}

// stain fills a buffer with what no disk holds.
func stain(b []byte) {
	for n := 0; n < len(b); {
		n += copy(b[n:], stained[:])
	}
}

var stained = func() (b [zonemodel.SectorBytes]byte) {
	for i := range b {
		b[i] = 0xe5
	}
	return b
}()

// pattern fills a buffer with data that is that of no other fill: each sector
// says which one it is, and which sector of it.
func pattern(b []byte, fill uint64) {
	var sector [zonemodel.SectorBytes]byte
	for i := range sector {
		sector[i] = byte(fill) ^ byte(i)
	}
	for n := uint64(0); len(b) > 0; n++ {
		binary.LittleEndian.PutUint64(sector[0:], fill)
		binary.LittleEndian.PutUint64(sector[8:], n)
		b = b[copy(b, sector[:]):]
	}
}
