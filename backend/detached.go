package backend

import (
	"errors"
	"fmt"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/drive"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/plain"
	"github.com/zvhost/zvhost/backend/zone"
)

// detached is the placeholder for a disk that somebody else has, or may have: it says what the
// disk is, and carries out nothing. A guest that moves to another host has a daemon
// at either end, and only one of them may have the disk.
type detached struct {
	info   disk.Info
	faults disk.Faults
}

// errDetached is what a detached disk answers.
var errDetached = fmt.Errorf("%w: another zvhost has the disk, or is about to take it", disk.ErrIO)

func newDetached(i disk.Info) *detached {
	return &detached{info: i, faults: disk.Faults{Refuse: "the disk is not here: another zvhost has it, or is about to take it"}}
}

// Look says what Open would open, in the form of a disk that is not to be used: it
// refuses every request, until Open is called. Look takes no lock and writes
// nothing, so somebody else may have the disk meanwhile.
func Look(path string, o disk.Options) (disk.Disk, error) {
	kind, err := kindOf(path, &o)
	if err != nil {
		return nil, err
	}
	o.LookOnly = true
	switch kind {
	case disk.KindImage:
		img, err := image.Open(path, o, nil)
		if err != nil {
			return nil, err
		}
		return newDetached(disk.Describe(&img.Geometry, o.ReadOnly)), img.Release()
	case disk.KindZonedDevice:
		d, err := drive.Open(path, o)
		if err != nil {
			return nil, err
		}
		return newDetached(d.Info()), d.Release()
	}
	p, err := plain.Open(path, o)
	if err != nil {
		return nil, err
	}
	return newDetached(p.Info()), p.Release()
}

// LetGo stores what d, in which no request is in flight, was given, and closes it, so
// that somebody else can open it. It returns what stands in its place, as Look does.
// Where it cannot be stored the error says why, and d itself is returned, open as it
// was: no flush of it succeeds any more, but one of who opened it anew would. After
// another error it is closed all the same.
func LetGo(d disk.Disk) (disk.Disk, error) {
	i := d.Info()
	if !i.ReadOnly {
		if err := commitNow(d); err != nil {
			return d, err
		}
	}
	return newDetached(i), d.Close()
}

// commitNow is a flush of d that no fault strikes.
func commitNow(d disk.Disk) (err error) {
	lane, err := disk.NewLane(func(wake func()) (engine.Engine, error) { return engine.NewThreads(1, wake), nil })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lane.Close()) }()
	return disk.CauseOf(lane.CarryOut(d, &disk.Request{Op: disk.OpCommit}))
}

func isDetached(d disk.Disk) bool {
	_, ok := d.(*detached)
	return ok
}

// Info implements Disk.
func (a *detached) Info() disk.Info { return a.info }

// ReportZone implements Disk. Nobody knows what the zones are like by now.
func (a *detached) ReportZone(int) zone.Descriptor { panic("backend: zone report of a detached disk") }

// Faults implements Disk.
func (a *detached) Faults() *disk.Faults { return &a.faults }

// Close implements Disk.
func (a *detached) Close() error { return nil }

// Submit implements Disk.
func (a *detached) Submit(r *disk.Request) {
	r.Finish(&disk.RequestError{Op: r.Op, Sector: r.Sector, Bytes: r.Bytes, Zone: -1, Err: errDetached})
}

// Continue implements Disk: it has no I/O.
func (a *detached) Continue(r *disk.Request) { r.Finish(r.Err) }
