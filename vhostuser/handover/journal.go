package handover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

// A Journal is a session's state in memory that outlives the process: what the front-end
// has set up so far, and the message that was acted on last, until its answer is sent.
//
// It has two slots. A commit overwrites the older one and gives it a checksum,
// so that a process that dies in the middle leaves the newer one. Each slot has a
// place where the kernel itself notes, in the very system call, that the message
// was taken from the socket and that its answer was sent (struct mmsghdr,
// msg_len; recvmmsg(2), sendmmsg(2)): no signal comes in between.
//
//	slot  0     magic, version (4 each)
//	      8     number of the commit (8)
//	      16    length of the state (4), CRC-32C of the bytes 0 to 20 and of it (4)
//	      64    struct mmsghdr: MaxPieces for the message, one for the answer
//	      512   struct iovec, as many
//	      1024  control message for the answer's descriptor
//	      4096  the state
//	behind the two slots: where a message is read into once more, to drop it
type Journal struct {
	file *foreign.FD
	mem  []byte
	now  int    // the slot that counts
	gen  uint64 // its number
}

const (
	journalMagic   = 0x315a564a // "JVZ1"
	journalVersion = 1

	slotBytes    = 64 << 10
	slotHeaders  = 64
	slotVectors  = 512
	slotControl  = 1024
	slotState    = 4096
	slotSum      = 20
	headerBytes  = 64 // struct mmsghdr
	vectorBytes  = 16 // struct iovec
	scratchAt    = 2 * slotBytes
	journalBytes = scratchAt + 8192
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// NewJournal makes an empty journal in a memfd. An error says that the kernel has no memory or
// descriptor left.
func NewJournal() (*Journal, error) {
	fd, err := unix.MemfdCreate("zvhost-session", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory for the session's state: %w", err)
	}
	f := foreign.NewFD(fd)
	if err := unix.Ftruncate(fd, journalBytes); err != nil {
		return nil, errors.Join(fmt.Errorf("memory for the session's state: %w", err), f.Close())
	}
	return mapJournal(f)
}

func mapJournal(f *foreign.FD) (*Journal, error) {
	mem, err := unix.Mmap(f.Int(), 0, journalBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map the session's state: %w", err), f.Close())
	}
	_ = unix.Madvise(mem, unix.MADV_DONTFORK) // see internal/foreign: another process must not keep it
	return &Journal{file: f, mem: mem}, nil
}

// OpenJournal takes over file, and returns what was committed last. An UnfitError says that
// another version of zvhost wrote it; any other error, that it is damaged or cannot be
// mapped. file is closed then.
func OpenJournal(file *foreign.FD) (j *Journal, state []byte, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(file.Int(), &st); err != nil || st.Size != journalBytes {
		return nil, nil, errors.Join(UnfitError{Err: fmt.Errorf("the session's state has %d bytes, not %d: another version of zvhost left it", st.Size, journalBytes)}, err, file.Close())
	}
	if j, err = mapJournal(file); err != nil {
		return nil, nil, err
	}
	version, found := uint32(journalVersion), false
	for i := range 2 {
		s := j.slot(i)
		n := binary.LittleEndian.Uint32(s[16:])
		if binary.LittleEndian.Uint32(s) != journalMagic || n > slotBytes-slotState ||
			binary.LittleEndian.Uint32(s[slotSum:]) != slotCheck(s, n) || found && !after(binary.LittleEndian.Uint64(s[8:]), j.gen) {
			continue
		}
		found = true
		version = binary.LittleEndian.Uint32(s[4:])
		j.now, j.gen, state = i, binary.LittleEndian.Uint64(s[8:]), s[slotState:][:n]
	}
	switch {
	case version != journalVersion:
		return nil, nil, errors.Join(UnfitError{Err: fmt.Errorf("the session's state is in version %d, and this zvhost knows %d", version, journalVersion)}, j.Close())
	case !found:
		return nil, nil, errors.Join(errors.New("the session's state is not one that this zvhost can read"), j.Close())
	}
	return j, state, nil
}

// after says whether commit a came after b. Their numbers begin anew behind the last one,
// and no two slots are further apart than one commit.
func after(a, b uint64) bool { return int64(a-b) > 0 }

func (j *Journal) slot(i int) []byte { return j.mem[i*slotBytes:][:slotBytes] }

func slotCheck(s []byte, n uint32) uint32 {
	return crc32.Update(crc32.Checksum(s[:slotSum], castagnoli), castagnoli, s[slotState:][:n])
}

// Commit makes state what a later process finds, with no message taken from the socket and
// no answer sent. An error says that the state is too long; the one before stays.
func (j *Journal) Commit(state []byte) error {
	if len(state) > slotBytes-slotState {
		return fmt.Errorf("the session's state has %d bytes, more than %d", len(state), slotBytes-slotState)
	}
	j.now = 1 - j.now
	j.gen++
	s := j.slot(j.now)
	clear(s[:slotState])
	copy(s[slotState:], state)
	binary.LittleEndian.PutUint32(s[16:], uint32(len(state)))
	binary.LittleEndian.PutUint64(s[8:], j.gen)
	binary.LittleEndian.PutUint32(s[4:], journalVersion)
	binary.LittleEndian.PutUint32(s, journalMagic)
	binary.LittleEndian.PutUint32(s[slotSum:], slotCheck(s, uint32(len(state))))
	return nil
}

// FD lends the descriptor of the memory out.
func (j *Journal) FD() int { return j.file.Int() }

// Close unmaps the journal and closes its descriptor. An error is the kernel's.
func (j *Journal) Close() error {
	if j == nil {
		return nil
	}
	return errors.Join(unix.Munmap(j.mem), j.file.Close())
}

// header lays out header number i of the current slot, for n bytes at mem[at:].
// Its pointers are into the mapping, of which Go's collector knows nothing.
func (j *Journal) header(i, at, n int) {
	s := j.slot(j.now)
	v := s[slotVectors+i*vectorBytes:][:vectorBytes]
	binary.LittleEndian.PutUint64(v, j.address(at))
	binary.LittleEndian.PutUint64(v[8:], uint64(n))
	h := (*unix.Msghdr)(unsafe.Pointer(&s[slotHeaders+i*headerBytes]))
	*h = unix.Msghdr{Iov: (*unix.Iovec)(unsafe.Pointer(&v[0])), Iovlen: 1}
}

func (j *Journal) address(at int) uint64 { return uint64(uintptr(unsafe.Pointer(&j.mem[at]))) }

// moved is what the kernel has noted of header i: how many bytes were moved.
func (j *Journal) moved(i int) int {
	return int(int32(binary.NativeEndian.Uint32(j.slot(j.now)[slotHeaders+i*headerBytes+int(unsafe.Sizeof(unix.Msghdr{})):])))
}

// call makes recvmmsg or sendmmsg of the headers from first on.
func (j *Journal) call(trap, fd uintptr, first, n int, flags uintptr) (int, error) {
	at := &j.slot(j.now)[slotHeaders+first*headerBytes]
	got, _, errno := unix.Syscall6(trap, fd, uintptr(unsafe.Pointer(at)), uintptr(n), flags, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(got), nil
}

// TakeMessage takes a message from the socket that was looked at in these pieces, if
// that has not been done yet. Its bytes and descriptors are dropped. An error is the
// kernel's, or says that another message was there; the session cannot go on.
func (j *Journal) TakeMessage(fd uintptr, pieces Pieces) error {
	first := 0
	for first < len(pieces) && j.moved(first) > 0 {
		first++
	}
	if first == len(pieces) {
		return nil
	}
	at := scratchAt
	for i := first; i < len(pieces); i++ {
		j.header(i, at, int(pieces[i]))
		at += int(pieces[i])
	}
	n, err := j.call(unix.SYS_RECVMMSG, fd, first, len(pieces)-first, unix.MSG_DONTWAIT)
	if err == nil && n != len(pieces)-first {
		err = unix.EIO
	}
	for i := first; i < len(pieces) && err == nil; i++ {
		if j.moved(i) != int(pieces[i]) {
			err = unix.EIO
		}
	}
	if err != nil {
		return fmt.Errorf("take a message from the socket that was acted on: %w", err)
	}
	return nil
}

// SendAnswer sends the n bytes of an answer at byte at of the state, if
// that has not been done yet, and with it the descriptor pass, -1 for none. It
// returns false where the socket has no room at the moment. An error is the kernel's: the
// front-end has closed the connection.
func (j *Journal) SendAnswer(fd uintptr, at, n, pass int) (sent bool, err error) {
	if j.moved(MaxPieces) > 0 {
		return true, nil
	}
	j.header(MaxPieces, j.now*slotBytes+slotState+at, n)
	if pass >= 0 {
		s := j.slot(j.now)
		oob := unix.UnixRights(pass)
		copy(s[slotControl:], oob)
		h := (*unix.Msghdr)(unsafe.Pointer(&s[slotHeaders+MaxPieces*headerBytes]))
		h.Control = &s[slotControl]
		h.SetControllen(len(oob))
	}
	_, err = j.call(unix.SYS_SENDMMSG, fd, MaxPieces, 1, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	switch {
	case err == unix.EAGAIN:
		return false, nil
	case err == nil && j.moved(MaxPieces) != n:
		err = unix.EIO
	}
	if err != nil {
		return false, fmt.Errorf("sending an answer: %w", err)
	}
	return true, nil
}
