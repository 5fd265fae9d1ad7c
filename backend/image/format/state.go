package format

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
)

// A StateBlock says how the image was left: cleanly, or in use, and by whom.
// It stands twice; the valid copy with the higher sequence number counts.
//
//	0   magic "ZVSTATE\0"
//	8   sequence number
//	16  CRC-32C of the block with this field zero
//	20  flags, bit 0: clean; bit 1: in use, and nobody has begun; bit 2: clean, but
//	    nobody has begun since a daemon died
//	24  UUID of the image
//	40  where: boot id (16), device number (8), inode number (8)
//	72  process id of the daemon
//	80  how many users there have been: see Renew
type StateBlock struct {
	Seq        uint64 // sequence number
	Clean      bool
	Idle       bool // since it was clean no queue has been served: see Image.Begin
	MayHaveRun bool // clean, but requests of a daemon that died may have run: see Image.LeaveUnclean
	Where      Place
	PID        uint32 // of the daemon
	Run        uint64 // how many users there have been: see Image.Renew
}

// A Place is one file in one run of the kernel. While the place is the same,
// the page cache that held the live table has not been lost, so the live table
// is what guests were told, even after a kill -9.
type Place struct {
	Boot          [16]byte
	Device, Inode uint64
}

const (
	StateMagic = "ZVSTATE\x00" // a state block begins with it

	stateClean      = 1 << 0
	stateIdle       = 1 << 1
	stateMayHaveRun = 1 << 2
)

// Encode returns the block as it is written to the image with this UUID.
func (s *StateBlock) Encode(uuid [16]byte) []byte {
	b := make([]byte, BlockBytes)
	le := binary.LittleEndian
	copy(b, StateMagic)
	le.PutUint64(b[8:], s.Seq)
	switch {
	case s.Clean && s.MayHaveRun:
		le.PutUint32(b[20:], stateClean|stateMayHaveRun)
	case s.Clean:
		le.PutUint32(b[20:], stateClean)
	case s.Idle:
		le.PutUint32(b[20:], stateIdle)
	}
	copy(b[24:], uuid[:])
	copy(b[40:], s.Where.Boot[:])
	le.PutUint64(b[56:], s.Where.Device)
	le.PutUint64(b[64:], s.Where.Inode)
	le.PutUint32(b[72:], s.PID)
	le.PutUint64(b[80:], s.Run)
	le.PutUint32(b[16:], Checksum(b, 16))
	return b
}

// DecodeState decodes a state block of the image with this UUID. The error says why it is
// none.
func DecodeState(b []byte, uuid [16]byte) (StateBlock, error) {
	le := binary.LittleEndian
	switch {
	case string(b[:8]) != StateMagic:
		return StateBlock{}, errors.New("it does not start like one")
	case le.Uint32(b[16:]) != Checksum(b, 16):
		return StateBlock{}, errors.New("its checksum is wrong")
	case !bytes.Equal(b[24:40], uuid[:]):
		return StateBlock{}, errors.New("it belongs to another image")
	}
	s := StateBlock{
		Seq:        le.Uint64(b[8:]),
		Clean:      le.Uint32(b[20:])&stateClean != 0,
		Idle:       le.Uint32(b[20:])&stateIdle != 0,
		MayHaveRun: le.Uint32(b[20:])&stateMayHaveRun != 0,
		Where:      Place{Device: le.Uint64(b[56:]), Inode: le.Uint64(b[64:])},
		PID:        le.Uint32(b[72:]),
		Run:        le.Uint64(b[80:]),
	}
	copy(s.Where.Boot[:], b[40:])
	return s, nil
}

// ReadState reads both copies. It fails only when neither is good, which no
// crash brings about.
func ReadState(f *os.File, uuid [16]byte) (newest StateBlock, findings []Finding, err error) {
	good := 0
	for i := range int64(2) {
		b := make([]byte, BlockBytes)
		if _, err := f.ReadAt(b, StateOff+i*BlockBytes); err != nil {
			return StateBlock{}, nil, fmt.Errorf("read the state: %w", err)
		}
		s, err := DecodeState(b, uuid)
		if err == nil {
			err = checkSeq(s.Seq, i == 0)
		}
		if err != nil {
			findings = append(findings, Finding{Where: fmt.Sprintf("state block %d", i), What: err.Error()})
			continue
		}
		if good++; s.Seq > newest.Seq {
			newest = s
		}
	}
	if good == 0 {
		return StateBlock{}, findings, disk.Damagedf("both state blocks are damaged; run 'zvhost check' on the image")
	}
	return newest, findings, nil
}

// Sequence numbers, of state blocks and of blocks of the committed table, end at
// lastSeq. An image that has come to lateSeq is numbered anew when it is opened for
// writing, or repaired: nobody counts from there to the end.
const (
	LateSeq = 1 << 62
	LastSeq = 1<<63 - 1
)

// EarlySeq is the number to go on from in the place of seq, so that the next two numbers
// are written over the older copy and then over the newer one, with the same contents
// both. Until the second write the newer copy counts, and behind it the other one.
func EarlySeq(seq uint64) uint64 { return seq % 2 }

// checkSeq says whether seq can stand in its place: of two copies one has the odd
// numbers, and nobody counts to the end.
func checkSeq(seq uint64, odd bool) error {
	if seq == 0 || seq > LastSeq || (seq%2 == 1) != odd {
		return fmt.Errorf("its sequence number %d does not belong there", seq)
	}
	return nil
}

// A StableWriter writes b at off, durable when it returns.
type StableWriter interface {
	WriteStable(b []byte, off int64) error
}

// Write makes s the newest state, over the older of the two copies, durably. What
// failed may have torn that one, so who tries again goes there again, and not over
// the only copy that is whole.
func (s *StateBlock) Write(to StableWriter, uuid [16]byte) error {
	next := *s
	if next.Seq++; next.Seq > LastSeq {
		next.Seq = EarlySeq(s.Seq) + 1
	}
	// Odd sequence numbers stand in block 0, even ones in block 1.
	if err := to.WriteStable(next.Encode(uuid), StateOff+int64((next.Seq+1)%2)*BlockBytes); err != nil {
		return err
	}
	s.Seq = next.Seq
	return nil
}

// Renumber has the numbers of the state blocks begin anew where they have come far.
func (s *StateBlock) Renumber(to StableWriter, uuid [16]byte) error {
	if s.Seq < LateSeq {
		return nil
	}
	s.Seq = EarlySeq(s.Seq)
	for range 2 {
		if err := s.Write(to, uuid); err != nil {
			return fmt.Errorf("number the state blocks anew: %w", err)
		}
	}
	return nil
}

// Distrust makes s the newest state, without a place to be trusted in, and both copies
// say so: the older one must not bring back what is not so any more. A write of it may
// fail with the news that is why, and the next one on the same block succeeds. Where
// none does the other copy is written over: one of them has to say it. It fails when
// neither does.
func (s *StateBlock) Distrust(to StableWriter, uuid [16]byte) error {
	s.Where = Place{}
	was, good := s.Seq, 0
	var failed error
	for tries := 0; tries < 4 && good < 2; tries++ {
		if tries == 2 && good == 0 {
			s.Seq++ // on to the other block
		}
		if err := s.Write(to, uuid); err != nil {
			failed = err
			continue
		}
		good++
	}
	if good == 0 {
		s.Seq = was
		return failed
	}
	return nil
}

// bootID is where the kernel tells one of its runs from the next.
const bootID = "/proc/sys/kernel/random/boot_id"

// PlaceOf says in which place f is. Where the kernel does not tell its boot id
// the place is the zero place, which equals none: recovery is then from what
// was committed.
func PlaceOf(f *os.File) (Place, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Place{}, err
	}
	p := Place{Device: uint64(st.Dev), Inode: st.Ino} //nolint:unconvert // 32 bits on some machines
	text, err := os.ReadFile(bootID)
	if err != nil {
		return Place{}, nil
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	if err != nil || len(raw) != len(p.Boot) {
		return Place{}, nil
	}
	copy(p.Boot[:], raw)
	return p, nil
}

// TrustsLive says that the live table of an image in this state, found in place
// here, is what guests were told.
func (s *StateBlock) TrustsLive(here Place) bool { return s.Clean || s.Where.same(here) }

// same says that nothing can have been lost between p and q.
func (p Place) same(q Place) bool { return p == q && p != Place{} }
