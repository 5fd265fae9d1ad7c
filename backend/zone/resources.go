package zone

// Resources counts the open and active zones against the disk's limits, a limit
// of zero meaning none.
type Resources struct {
	MaxOpen, MaxActive uint32
	Open, Active       uint32
}

// Move accounts for a zone that goes from one state to another. It fails, with
// nothing changed, with ErrActiveLimit or ErrOpenLimit; when both limits
// stand in the way it is ErrActiveLimit, as the specification has it.
func (r *Resources) Move(from, to State) error {
	wantOpen := to.IsOpen() && !from.IsOpen()
	wantActive := to.IsActive() && !from.IsActive()
	if wantActive && r.MaxActive != 0 && r.Active >= r.MaxActive {
		return ErrActiveLimit
	}
	if wantOpen && r.MaxOpen != 0 && r.Open >= r.MaxOpen {
		return ErrOpenLimit
	}
	switch {
	case wantOpen:
		r.Open++
	case from.IsOpen() && !to.IsOpen():
		r.Open--
	}
	switch {
	case wantActive:
		r.Active++
	case from.IsActive() && !to.IsActive():
		r.Active--
	}
	return nil
}
