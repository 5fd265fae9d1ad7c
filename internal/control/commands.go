package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// answer carries out one request line. note is called with one line for each change.
func (s *Server) answer(line []byte) Answer {
	a, err := s.carryOut(line)
	if err != nil {
		// An error of several is one of several lines.
		return Answer{Error: strings.ReplaceAll(err.Error(), "\n", "; ")}
	}
	return a
}

func (s *Server) carryOut(line []byte) (a Answer, err error) {
	dk, note := s.disk, s.note
	r, err := decode(line)
	if err != nil {
		return a, err
	}
	if s.Borrow != nil && r.Command != Resize { // Grow borrows the disk itself
		var done func()
		dk, done = s.Borrow()
		defer done()
	}
	switch r.Command {
	case FaultAdd:
		if len(r.Faults) == 0 {
			return a, errors.New("no fault to add")
		}
		a.IDs, err = dk.Faults().Add(r.Faults...)
		for i, id := range a.IDs {
			note(fmt.Sprintf("fault %d: %v", id, r.Faults[i]))
		}
	case FaultList:
		a.Faults = dk.Faults().List()
	case FaultClear:
		slices.Sort(r.IDs)
		r.IDs = slices.Compact(r.IDs)
		if a.Cleared = len(r.IDs); a.Cleared == 0 {
			a.Cleared = dk.Faults().ClearAll()
		} else {
			err = dk.Faults().Clear(r.IDs...)
		}
		if err == nil {
			note(fmt.Sprintf("faults cleared: %d", a.Cleared))
		}
	case SetState:
		a.Zones, err = SetZones(dk, r.Zones, r.State)
		if err == nil {
			which := r.Zones
			if len(which) > 80 {
				which = fmt.Sprintf("(%d of them)", a.Zones)
			}
			note(fmt.Sprintf("zones %s: %s", which, r.State))
		}
	case Resize:
		if s.Grow == nil {
			return a, errors.New("this disk keeps its size")
		}
		a.Was, a.Sectors, a.Told, err = s.Grow() // which logs it itself
	default:
		err = fmt.Errorf("unknown command %q", r.Command)
	}
	return a, err
}

// decode reads a request. An unknown field may change the meaning, so it is refused.
func decode(line []byte) (r Request, err error) {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return r, fmt.Errorf("not a request: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return r, errors.New("not a request: there is something behind it")
	}
	return r, nil
}

// SetZones sets the state of zones of a disk, both given as on a command line, and returns
// the number of zones.
func SetZones(dk disk.Disk, zones, state string) (n int, err error) {
	z := dk.Info().Zoned
	if z == nil {
		return 0, errors.New("the disk is an ordinary one: it has no zones")
	}
	list, err := zone.ParseSet(zones, z.Zones)
	if err != nil {
		return 0, err
	}
	to, err := backend.ParseZoneTarget(state)
	if err != nil {
		return 0, err
	}
	if err := backend.SetZoneStates(dk, list, to); err != nil {
		return 0, err
	}
	return len(list), nil
}
