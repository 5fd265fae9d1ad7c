package disktest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/internal/zonemodel"
)

// A Twin drives a disk and its model side by side, and holds one against the
// other after every request.
type Twin struct {
	*Client
	m     *Model
	Cases int
	fill  *rand.ChaCha8
}

// NewTwin returns a Twin of d and m, which have to be in the same state.
func NewTwin(t TB, d disk.Disk, m *Model) *Twin {
	t.Helper()
	return &Twin{Client: NewClient(t, d), m: m, fill: rand.NewChaCha8([32]byte{})}
}

// NewRequest makes a request of n bytes; what it writes was never written before.
func (w *Twin) NewRequest(op disk.Op, sector, n uint64) *disk.Request {
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
	r.Iov = Split(data, w.Cases)
	return r
}

// Split cuts data into vectors, in one of a few ways: whole, odd, with empty ones.
func Split(data []byte, how int) (iov []unix.Iovec) {
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

// Both carries r out on the disk and in the model, and compares the outcomes.
func (w *Twin) Both(r *disk.Request) (ok bool) {
	w.T.Helper()
	w.Cases++
	err := w.Do(r)
	read, at, want := w.m.Apply(r)
	what := fmt.Sprintf("%v of %d bytes at sector %d", r.Op, r.Bytes, r.Sector)
	switch {
	case !errors.Is(err, want):
		w.T.Errorf("%s: got %v, want %v", what, err, want)
		return false
	case want != nil:
		var re *disk.RequestError
		if !errors.As(err, &re) || re.Op != r.Op || re.Sector != r.Sector || re.Bytes != r.Bytes {
			w.T.Errorf("%s: the error %v does not say what failed", what, err)
		}
	case r.Op == disk.OpAppend && r.AppendSector != at:
		w.T.Errorf("%s: landed at sector %d, want %d", what, r.AppendSector, at)
		return false
	case r.Op == disk.OpRead && !bytes.Equal(BytesOf(r), read):
		w.T.Errorf("%s: other data than was written", what)
		return false
	}
	return true
}

// CompareZones compares the zone table.
func (w *Twin) CompareZones() bool {
	w.T.Helper()
	for i := range w.m.Zones {
		if got, want := w.Disk.ReportZone(i), w.m.Report(i); got != want {
			w.T.Errorf("zone %d is %+v, want %+v", i, got, want)
			return false
		}
	}
	return true
}

// CompareData compares the data of zone i.
func (w *Twin) CompareData(i int) bool {
	w.T.Helper()
	z := &w.m.Zones[i]
	if z.State == zonemodel.Offline {
		return true
	}
	got := w.Read(z.Start, int(z.End-z.Start)*disk.SectorSize)
	want := w.m.Data(z.Start, (z.End-z.Start)*disk.SectorSize)
	for s := range z.End - z.Start {
		if !bytes.Equal(got[s*disk.SectorSize:][:disk.SectorSize], want[s*disk.SectorSize:][:disk.SectorSize]) {
			w.T.Errorf("zone %d (%v, write pointer at sector %d): sector %d is not what was written", i, z.State, z.WP-z.Start, s)
			return false
		}
	}
	return true
}

// CompareAll compares everything.
func (w *Twin) CompareAll() {
	w.T.Helper()
	w.CompareZones()
	for i := range w.m.Zones {
		w.CompareData(i)
	}
}
