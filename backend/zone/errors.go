package zone

import "errors"

// The errors of requests that a zone does not allow. package backend has those of every disk;
// virtio/status.go is the one place that maps them to virtio status bytes.
var (
	// ErrInvalid is a request that the zone's type, state, borders or
	// capacity do not allow.
	ErrInvalid = errors.New("not allowed by the zone's type, state or borders")
	// ErrUnaligned is a write that does not start at the write pointer, or
	// does not end on the write granularity.
	ErrUnaligned = errors.New("not at the write pointer, or not whole blocks")
	// ErrOpenLimit is one open zone too many (max_open_zones).
	ErrOpenLimit = errors.New("too many open zones")
	// ErrActiveLimit is one active zone too many (max_active_zones).
	ErrActiveLimit = errors.New("too many active zones")
)
