package blkclient

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/zvhost/zvhost/virtio/driver"
)

// The methods of this file make one request each and wait for its answer, on a
// queue with nothing else in flight. Sectors are of 512 bytes.

// StatusError is a request that was answered with a status other than OK.
type StatusError struct {
	Type   uint32
	Sector uint64
	Status byte
}

func (e StatusError) Error() string {
	return fmt.Sprintf("%s at sector %d was answered with %s", driver.TypeString(e.Type), e.Sector, driver.StatusString(e.Status))
}

// Status is the status in err: driver.StatusOK for nil, and driver.StatusNone for an error
// without an answer of the device.
func Status(err error) byte {
	var s StatusError
	switch {
	case err == nil:
		return driver.StatusOK
	case errors.As(err, &s):
		return s.Status
	}
	return driver.StatusNone
}

// ErrBusy is a queue that cannot make a request alone, since others are in flight.
var ErrBusy = errors.New("other requests are in flight")

// Do sends r, waits for its answer, and returns a StatusError if its status is not OK. The
// caller owns r afterwards, as before.
func (q *Queue) Do(r *Request) error {
	if q.inFlight != 0 {
		return fmt.Errorf("queue %d: %w", q.index, ErrBusy)
	}
	if err := q.Submit(r); err != nil {
		return err
	}
	if err := q.Kick(); err != nil {
		return err
	}
	var done [1]*Request
	if _, err := q.Wait(done[:]); err != nil {
		return fmt.Errorf("waiting for the %s at sector %d: %w", driver.TypeString(r.Type), r.Sector, err)
	}
	if r.Status != driver.StatusOK {
		return StatusError{r.Type, r.Sector, r.Status}
	}
	return nil
}

// do sends a request with n bytes of data: fill writes them before, use reads them after an
// answer with OK.
func (q *Queue) do(typ uint32, sector uint64, n int, fill func([]byte), use func(*Request) error) error {
	if n > q.d.opt.BufferBytes {
		return fmt.Errorf("%d bytes are more than a request's buffer of %d", n, q.d.opt.BufferBytes)
	}
	r := q.Get()
	if r == nil {
		return fmt.Errorf("queue %d: %w", q.index, ErrBusy)
	}
	defer q.Put(r)
	r.Type, r.Sector = typ, sector
	r.SetLen(n)
	if fill != nil {
		fill(r.Data)
	}
	if err := q.Do(r); err != nil {
		return err
	}
	if use != nil {
		return use(r)
	}
	return nil
}

// Read reads len(dst) bytes, at most Options.BufferBytes.
func (q *Queue) Read(dst []byte, sector uint64) error {
	return q.do(driver.TypeIn, sector, len(dst), nil, func(r *Request) error {
		copy(dst, r.Data)
		return nil
	})
}

// Write writes src, at most Options.BufferBytes.
func (q *Queue) Write(src []byte, sector uint64) error {
	return q.do(driver.TypeOut, sector, len(src), func(b []byte) { copy(b, src) }, nil)
}

// Flush waits until everything written before is on stable storage.
func (q *Queue) Flush() error { return q.do(driver.TypeFlush, 0, 0, nil, nil) }

// ID reads the disk's serial number.
func (q *Queue) ID() (id string, err error) {
	err = q.do(driver.TypeGetID, 0, driver.IDBytes, nil, func(r *Request) error {
		if i := bytes.IndexByte(r.Data, 0); i >= 0 {
			r.Data = r.Data[:i]
		}
		id = string(r.Data)
		return nil
	})
	return id, err
}

// A Segment is one range of a Discard, WriteZeroes or SecureErase.
type Segment struct {
	Sector  uint64
	Sectors uint32
	Flags   uint32 // WriteZeroes: 1 allows the device to free the space
}

// Discard tells the device that the data of the ranges is not needed any more.
func (q *Queue) Discard(ranges ...Segment) error {
	return q.segments(driver.TypeDiscard, ranges)
}

// WriteZeroes makes the ranges read as zeroes.
func (q *Queue) WriteZeroes(ranges ...Segment) error {
	return q.segments(driver.TypeWriteZeroes, ranges)
}

// SecureErase resets the zones in the ranges, whole zones, and returns once their data is
// erased from stable storage.
func (q *Queue) SecureErase(ranges ...Segment) error {
	return q.segments(driver.TypeSecureErase, ranges)
}

func (q *Queue) segments(typ uint32, ranges []Segment) error {
	return q.do(typ, 0, driver.SegmentBytes*len(ranges), func(b []byte) {
		for i, s := range ranges {
			driver.PutSegment(b[i*driver.SegmentBytes:], s.Sector, s.Sectors, s.Flags)
		}
	}, nil)
}

// Append appends src, at most Options.BufferBytes, to the zone that begins at
// sector zone, and returns the sector where it landed.
func (q *Queue) Append(src []byte, zone uint64) (sector uint64, err error) {
	err = q.do(driver.TypeZoneAppend, zone, len(src), func(b []byte) { copy(b, src) }, func(r *Request) error {
		sector = r.AppendSector
		return nil
	})
	return sector, err
}

// Zone sends a request without data for the zone that begins at a sector:
// driver.TypeZoneOpen, Close, Finish, Reset or ResetAll.
func (q *Queue) Zone(typ uint32, sector uint64) error { return q.do(typ, sector, 0, nil, nil) }

// Report reads the zone that contains sector and those behind it, up to limit and as many
// as fit into a request's buffer.
func (q *Queue) Report(sector uint64, limit int) (zones []driver.Zone, err error) {
	limit = min(limit, (q.d.opt.BufferBytes-driver.ReportHeaderBytes)/driver.ZoneDescriptorBytes)
	n := driver.ReportHeaderBytes + limit*driver.ZoneDescriptorBytes
	err = q.do(driver.TypeZoneReport, sector, n, nil, func(r *Request) error {
		var err error
		zones, err = driver.ParseReport(nil, r.Data)
		return err
	})
	return zones, err
}

// ReportAll reads every zone of the disk.
func (q *Queue) ReportAll() (zones []driver.Zone, err error) {
	if q.d.Config.ZoneSectors == 0 {
		return nil, errors.New("the disk has no zones")
	}
	for sector := uint64(0); sector < q.d.Config.Capacity; sector += uint64(q.d.Config.ZoneSectors) {
		some, err := q.Report(sector, 1<<20)
		if err != nil {
			return nil, err
		}
		if len(some) == 0 {
			return nil, fmt.Errorf("the report from sector %d has no zones", sector)
		}
		zones = append(zones, some...)
		sector = some[len(some)-1].Start
	}
	return zones, nil
}
