package backend

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/internal/zonemodel"
)

// A twin drives a disk and its model side by side, and holds one against the
// other after every request.
type twin struct {
	*client
	m     *model
	cases int
	fill  *rand.ChaCha8
}

func newTwin(t tb, d disk.Disk, m *model) *twin {
	t.Helper()
	return &twin{client: newClient(t, d), m: m, fill: rand.NewChaCha8([32]byte{})}
}

// request makes a request of n bytes; what it writes was never written before.
func (w *twin) request(op disk.Op, sector, n uint64) *disk.Request {
	r := &disk.Request{Op: op, Sector: sector, Bytes: n}
	if n == 0 {
		return r
	}
	data := make([]byte, n)
	if op != disk.OpRead {
		_, _ = w.fill.Read(data)
	} else {
		copy(data, bytes.Repeat([]byte{0xee}, int(n)))
	}
	r.Iov = split(data, w.cases)
	return r
}

// split cuts data into vectors, in one of a few ways: whole, odd, with empty ones.
func split(data []byte, how int) (iov []unix.Iovec) {
	step := []int{len(data), 512, 4095, 1 << 12}[how%4]
	for len(data) > 0 {
		n := min(step, len(data))
		iov = append(iov, unix.Iovec{Base: &data[0], Len: uint64(n)})
		if how%4 == 2 {
			iov = append(iov, unix.Iovec{})
		}
		data = data[n:]
	}
	return iov
}

// both carries r out on the disk and in the model, and compares the outcomes.
func (w *twin) both(r *disk.Request) (ok bool) {
	w.t.Helper()
	w.cases++
	err := w.do(r)
	read, at, want := w.m.do(r)
	what := fmt.Sprintf("%v of %d bytes at sector %d", r.Op, r.Bytes, r.Sector)
	switch {
	case !errors.Is(err, want):
		w.t.Errorf("%s: got %v, want %v", what, err, want)
		return false
	case want != nil:
		var re *disk.RequestError
		if !errors.As(err, &re) || re.Op != r.Op || re.Sector != r.Sector || re.Bytes != r.Bytes {
			w.t.Errorf("%s: the error %v does not say what failed", what, err)
		}
	case r.Op == disk.OpAppend && r.AppendSector != at:
		w.t.Errorf("%s: landed at sector %d, want %d", what, r.AppendSector, at)
		return false
	case r.Op == disk.OpRead && !bytes.Equal(bytesOfAll(r), read):
		w.t.Errorf("%s: other data than was written", what)
		return false
	}
	return true
}

// zones compares the zone table.
func (w *twin) zones() bool {
	w.t.Helper()
	for i := range w.m.Zones {
		if got, want := w.disk.ReportZone(i), w.m.zone(i); got != want {
			w.t.Errorf("zone %d is %+v, want %+v", i, got, want)
			return false
		}
	}
	return true
}

// data compares the data of zone i.
func (w *twin) data(i int) bool {
	w.t.Helper()
	z := &w.m.Zones[i]
	if z.State == zonemodel.Offline {
		return true
	}
	got := w.read(z.Start, int(z.End-z.Start)*disk.SectorSize)
	want := w.m.Data(z.Start, (z.End-z.Start)*disk.SectorSize)
	for s := range z.End - z.Start {
		if !bytes.Equal(got[s*disk.SectorSize:][:disk.SectorSize], want[s*disk.SectorSize:][:disk.SectorSize]) {
			w.t.Errorf("zone %d (%v, write pointer at sector %d): sector %d is not what was written", i, z.State, z.WP-z.Start, s)
			return false
		}
	}
	return true
}

// all compares everything.
func (w *twin) all() {
	w.t.Helper()
	w.zones()
	for i := range w.m.Zones {
		w.data(i)
	}
}
