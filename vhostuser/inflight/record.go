package inflight

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

// A Record is what has to be known of the requests in flight by a process that
// goes on where another one died: shared memory in the layout of "Inflight I/O
// tracking", and behind each queue's part as much again of ours. It lives in a
// memfd that cannot shrink, so that no access to it faults, or in a file of the daemon's own.
//
// A queue's part, in 64-bit words (QueueRegionSplit and DescStateSplit; all
// numbers little-endian):
//
//	0        features, 0
//	1        version 1, descriptors, head of the last batch, used index: 16 bits each
//	2+2i     descriptor i: bits 0..7 in flight, bits 48..63 the next of its batch
//	3+2i     its place in the order in which requests came
//	own      which life of the ring this is of; own+1 who uses the disk (the
//	         device's number); own+2 by how much the available index was ahead of
//	         the used index when the ring started; own+3 and own+4 notes of the
//	         device's: see Note and Cache
//	own+8+2i a mark for the device: two words, cleared when i is taken
//	         (and behind these what a packed ring's has: record_packed.go)
//
// own is 2+2n rounded up to a cache line, n being the descriptors that there is
// room for.
type Record struct {
	file  *foreign.FD
	mem   []byte
	rings []Ring
	size  uint16
}

// MaxRings is the most rings that a record is made for, and MaxRingSize the most
// descriptors of each (virtio, "Virtqueues").
const (
	MaxRings    = 256
	MaxRingSize = 32768
)

const (
	wordHead  = 1
	wordDesc  = 2
	ownWords  = 8
	lineWords = 8

	recordVersion = 1
	flagInFlight  = 1
)

func ownAt(size uint16) int { return (wordDesc + 2*int(size) + lineWords - 1) &^ (lineWords - 1) }

// ringWords is how many words the part of one queue has.
func ringWords(size uint16) int {
	return (ownAt(size) + ownWords + 4*int(size) + lineWords - 1) &^ (lineWords - 1)
}

// Bytes is how large the record of so many queues is.
func Bytes(queues int, size uint16) int64 { return int64(queues) * int64(ringWords(size)) * 8 }

// recordSeals keep the memory as large as it is.
const recordSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// New makes an empty record of so many queues, with room for rings of up to
// size descriptors, 1 to 32768. Memory is taken for what is used of it.
func New(queues int, size uint16) (*Record, error) {
	fd, err := unix.MemfdCreate("zvhost-inflight", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memory for the record of requests in flight: %w", err)
	}
	f := foreign.NewFD(fd)
	if err = unix.Ftruncate(fd, Bytes(queues, size)); err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, recordSeals)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("memory for the record of requests in flight: %w", err), f.Close())
	}
	return Open(f, 0, queues, size)
}

// errForeignRecord is a record that somebody else made.
var ErrForeign = errors.New("the record of requests in flight is not one that zvhost has made: give the descriptor back that GET_INFLIGHT_FD gave, or none")

// Open takes over file and maps the record in it, which begins at byte off
// and was made for so many queues and rings of that size.
func Open(file *foreign.FD, off int64, queues int, size uint16) (*Record, error) {
	r, err := openRecord(file, off, queues, size)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return r, nil
}

func openRecord(file *foreign.FD, off int64, queues int, size uint16) (*Record, error) {
	if queues < 1 || queues > MaxRings || size < 1 || size > MaxRingSize {
		return nil, fmt.Errorf("a record of requests in flight for %d queues of %d descriptors: 1 to %d and 1 to %d may be asked for", queues, size, MaxRings, MaxRingSize)
	}
	n := Bytes(queues, size)
	var st unix.Stat_t
	if err := unix.Fstat(file.Int(), &st); err != nil {
		return nil, fmt.Errorf("the record of requests in flight: %w", err)
	}
	// Huge pages can be taken away by whoever has the file, with none left to take their
	// place, so they would fault like memory that has shrunk.
	var fs unix.Statfs_t
	if err := unix.Fstatfs(file.Int(), &fs); err != nil {
		return nil, fmt.Errorf("the record of requests in flight: %w", err)
	}
	seals, err := unix.FcntlInt(uintptr(file.Int()), unix.F_GET_SEALS, 0)
	if err != nil || seals&unix.F_SEAL_SHRINK == 0 || fs.Type != unix.TMPFS_MAGIC || off != 0 || st.Size < n {
		return nil, ErrForeign
	}
	return mapRecord(file, queues, size)
}

// OpenOwn takes over file and maps the record in it, as Open does. The file is this user's own,
// which nobody else can shrink; it is extended if it is shorter, as a new one is.
func OpenOwn(file *foreign.FD, queues int, size uint16) (*Record, error) {
	var st unix.Stat_t
	err := unix.Fstat(file.Int(), &st)
	if n := Bytes(queues, size); err == nil && st.Size < n {
		err = unix.Ftruncate(file.Int(), n)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the file for the record of requests in flight: %w", err), file.Close())
	}
	r, err := mapRecord(file, queues, size)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return r, nil
}

// mapRecord maps the record at the beginning of file, which is long enough for it.
func mapRecord(file *foreign.FD, queues int, size uint16) (*Record, error) {
	n := Bytes(queues, size)
	mem, err := unix.Mmap(file.Int(), 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the record of requests in flight: %w", err)
	}
	_ = unix.Madvise(mem, unix.MADV_DONTFORK) // see internal/foreign: another process must not keep it
	r := &Record{file: file, mem: mem, rings: make([]Ring, queues), size: size}
	words := unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(mem))), len(mem)/8)
	for i := range r.rings {
		r.rings[i] = Ring{words: words[i*ringWords(size):][:ringWords(size)], own: ownAt(size), room: size}
	}
	return r, nil
}

// Close lets go of the memory. No queue may use it any more.
func (r *Record) Close() error {
	if r == nil {
		return nil
	}
	return errors.Join(unix.Munmap(r.mem), r.file.Close())
}

// FD lends the descriptor of the memory out.
func (r *Record) FD() int { return r.file.Int() }

// File is the owner of the descriptor, nil without a record. It stays the record's.
func (r *Record) File() *foreign.FD {
	if r == nil {
		return nil
	}
	return r.file
}

// Size is for how many descriptors each ring has room, 0 without a record.
func (r *Record) Size() uint16 {
	if r == nil {
		return 0
	}
	return r.size
}

// Ring is the part of queue i, or nil where the record has none.
func (r *Record) Ring(i int) *Ring {
	if r == nil || i >= len(r.rings) {
		return nil
	}
	return &r.rings[i]
}

// Rings is how many queues it has room for.
func (r *Record) Rings() int {
	if r == nil {
		return 0
	}
	return len(r.rings)
}
