package vduse

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio/transport"
)

// What the next process needs to go on with a device is in two files: NAME.state, and
// NAME.inflight with the record of requests in flight. Both belong in memory (/run): they mean
// something as long as the kernel has the device, and no longer.

// DefaultStateDir is where the files are.
const DefaultStateDir = "/run/zvhost/vduse"

// A State is what is stored beside the record of requests in flight.
type State struct {
	Status   uint8  // the last device status that was answered
	Queues   int    // 1 to transport.MaxQueues
	Size     uint16 // the most descriptors of a ring
	Features uint64 // those that the driver has accepted, without the door's
	// Device and Choices are transport.Device.State.
	Device, Choices uint64
	// Life is the number of the rings' life (transport.Ring.Life): all rings begin a new life
	// when one of them does. Bases is where they began it.
	Life uint64
	// Shown is the checksum of the configuration space that the kernel has.
	Shown uint32
	Bases [transport.MaxQueues]uint32
}

const (
	stateMagic = "zvhost-vduse\x00\x00\x00\x01" // and the version
	stateHead  = len(stateMagic) + 4*4 + 4*8
)

// Append appends the state in bytes, with a checksum.
func (s *State) Append(b []byte) []byte {
	from := len(b)
	b = append(b, stateMagic...)
	b = le.AppendUint32(b, uint32(s.Status))
	b = le.AppendUint32(b, uint32(s.Queues))
	b = le.AppendUint32(b, uint32(s.Size))
	b = le.AppendUint32(b, s.Shown)
	for _, v := range [...]uint64{s.Features, s.Device, s.Choices, s.Life} {
		b = le.AppendUint64(b, v)
	}
	for _, base := range s.Bases[:s.Queues] {
		b = le.AppendUint32(b, base)
	}
	return le.AppendUint32(b, crc32.ChecksumIEEE(b[from:]))
}

// ParseState reads what Append wrote.
func ParseState(b []byte) (s State, err error) {
	if len(b) < stateHead+4 || string(b[:len(stateMagic)]) != stateMagic {
		return s, errors.New("not a state that this zvhost has written")
	}
	p := b[len(stateMagic):]
	status, queues, size := le.Uint32(p), le.Uint32(p[4:]), le.Uint32(p[8:])
	if queues < 1 || queues > transport.MaxQueues || status > 0xff || size < 1 || size > inflight.MaxRingSize {
		return s, errors.New("a state of impossible values")
	}
	end := stateHead + 4*int(queues)
	if len(b) != end+4 || le.Uint32(b[end:]) != crc32.ChecksumIEEE(b[:end]) {
		return s, errors.New("a damaged state")
	}
	s.Status, s.Queues, s.Size = uint8(status), int(queues), uint16(size)
	s.Shown = le.Uint32(p[12:])
	for i, v := range []*uint64{&s.Features, &s.Device, &s.Choices, &s.Life} {
		*v = le.Uint64(p[16+8*i:])
	}
	for i := range s.Queues {
		s.Bases[i] = le.Uint32(b[stateHead+4*i:])
	}
	return s, nil
}

// A Store holds the files of one device.
type Store struct {
	state  *os.File
	record *inflight.Record
	buf    []byte
}

// ErrNoState is a device of which nothing is stored.
var ErrNoState = errors.New("it was made by another program, or what zvhost had stored about it is gone: remove it (zvhost detach, or vdpa dev del) and make it anew")

func statePath(dir, name string) string  { return filepath.Join(dir, name+".state") }
func recordPath(dir, name string) string { return filepath.Join(dir, name+".inflight") }

// NewStore makes the files of a new device.
func NewStore(dir, name string, s *State) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the directory for the state of devices: %w", err)
	}
	if err := RemoveStore(dir, name); err != nil {
		return nil, err
	}
	st, err := openStore(dir, name, os.O_RDWR|os.O_CREATE|os.O_EXCL, s.Queues, s.Size)
	if err != nil {
		return nil, err
	}
	if err := st.Save(s); err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return st, nil
}

// OpenStore opens the files of a device that another process has served. It fails with
// ErrNoState if there are none.
func OpenStore(dir, name string) (*Store, State, error) {
	b, err := os.ReadFile(statePath(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, State{}, ErrNoState
	}
	if err != nil {
		return nil, State{}, err
	}
	s, err := ParseState(b)
	if err != nil {
		return nil, State{}, fmt.Errorf("%s: %w", statePath(dir, name), err)
	}
	st, err := openStore(dir, name, os.O_RDWR, s.Queues, s.Size)
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNoState
	}
	return st, s, err
}

func openStore(dir, name string, flags, queues int, size uint16) (*Store, error) {
	state, err := os.OpenFile(statePath(dir, name), flags, 0o600)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open(recordPath(dir, name), flags|unix.O_CLOEXEC, 0o600)
	if err != nil {
		err = &fs.PathError{Op: "open", Path: recordPath(dir, name), Err: err}
		return nil, errors.Join(err, state.Close())
	}
	record, err := inflight.OpenOwn(foreign.NewFD(fd), queues, size)
	if err != nil {
		return nil, errors.Join(err, state.Close())
	}
	return &Store{state: state, record: record}, nil
}

// RemoveStore removes the files of a device, as far as there are some.
func RemoveStore(dir, name string) error {
	var err error
	for _, path := range [...]string{statePath(dir, name), recordPath(dir, name)} {
		if e := os.Remove(path); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// Save stores s. It is one write of less than a page into the page cache, so that a process that
// is killed leaves the old state or the new one.
func (st *Store) Save(s *State) error {
	st.buf = s.Append(st.buf[:0])
	if _, err := st.state.WriteAt(st.buf, 0); err != nil {
		return fmt.Errorf("storing the state of the device: %w", err)
	}
	return nil
}

// Close closes the files, and leaves them.
func (st *Store) Close() error { return errors.Join(st.record.Close(), st.state.Close()) }
