package backend

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

// A state block says how the image was left: cleanly, or in use, and by whom.
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
type state struct {
	seq   uint64
	clean bool
	idle  bool // since it was clean no queue has been served: see Begin
	doubt bool // clean, but see LeaveUnclean
	where place
	pid   uint32
	run   uint64
}

// A place is one file in one run of the kernel. While the place is the same,
// the page cache that held the live table has not been lost, so the live table
// is what guests were told, even after a kill -9.
type place struct {
	boot     [16]byte
	dev, ino uint64
}

const (
	stateMagic = "ZVSTATE\x00"

	stateClean = 1 << 0
	stateIdle  = 1 << 1
	stateDoubt = 1 << 2
)

func (s *state) encode(uuid [16]byte) []byte {
	b := make([]byte, blockBytes)
	le := binary.LittleEndian
	copy(b, stateMagic)
	le.PutUint64(b[8:], s.seq)
	switch {
	case s.clean && s.doubt:
		le.PutUint32(b[20:], stateClean|stateDoubt)
	case s.clean:
		le.PutUint32(b[20:], stateClean)
	case s.idle:
		le.PutUint32(b[20:], stateIdle)
	}
	copy(b[24:], uuid[:])
	copy(b[40:], s.where.boot[:])
	le.PutUint64(b[56:], s.where.dev)
	le.PutUint64(b[64:], s.where.ino)
	le.PutUint32(b[72:], s.pid)
	le.PutUint64(b[80:], s.run)
	le.PutUint32(b[16:], checksum(b, 16))
	return b
}

func decodeState(b []byte, uuid [16]byte) (state, error) {
	le := binary.LittleEndian
	switch {
	case string(b[:8]) != stateMagic:
		return state{}, errors.New("it does not start like one")
	case le.Uint32(b[16:]) != checksum(b, 16):
		return state{}, errors.New("its checksum is wrong")
	case !bytes.Equal(b[24:40], uuid[:]):
		return state{}, errors.New("it belongs to another image")
	}
	s := state{
		seq:   le.Uint64(b[8:]),
		clean: le.Uint32(b[20:])&stateClean != 0,
		idle:  le.Uint32(b[20:])&stateIdle != 0,
		doubt: le.Uint32(b[20:])&stateDoubt != 0,
		where: place{dev: le.Uint64(b[56:]), ino: le.Uint64(b[64:])},
		pid:   le.Uint32(b[72:]),
		run:   le.Uint64(b[80:]),
	}
	copy(s.where.boot[:], b[40:])
	return s, nil
}

// readState reads both copies. It fails only when neither is good, which no
// crash brings about.
func readState(f *os.File, uuid [16]byte) (newest state, findings []Finding, err error) {
	good := 0
	for i := range int64(2) {
		b := make([]byte, blockBytes)
		if _, err := f.ReadAt(b, stateOff+i*blockBytes); err != nil {
			return state{}, nil, fmt.Errorf("read the state: %w", err)
		}
		s, err := decodeState(b, uuid)
		if err == nil {
			err = checkSeq(s.seq, i == 0)
		}
		if err != nil {
			findings = append(findings, Finding{Where: fmt.Sprintf("state block %d", i), What: err.Error()})
			continue
		}
		if good++; s.seq > newest.seq {
			newest = s
		}
	}
	if good == 0 {
		return state{}, findings, disk.Damagedf("both state blocks are damaged; run 'zvhost check' on the image")
	}
	return newest, findings, nil
}

// Sequence numbers, of state blocks and of blocks of the committed table, end at
// lastSeq. An image that has come to lateSeq is numbered anew when it is opened for
// writing, or repaired: nobody counts from there to the end.
const (
	lateSeq = 1 << 62
	lastSeq = 1<<63 - 1
)

// early is the number to go on from in the place of seq, so that the next two numbers
// are written over the older copy and then over the newer one, with the same contents
// both. Until the second write the newer copy counts, and behind it the other one.
func early(seq uint64) uint64 { return seq % 2 }

// checkSeq says whether seq can stand in its place: of two copies one has the odd
// numbers, and nobody counts to the end.
func checkSeq(seq uint64, odd bool) error {
	if seq == 0 || seq > lastSeq || (seq%2 == 1) != odd {
		return fmt.Errorf("its sequence number %d does not belong there", seq)
	}
	return nil
}

// write makes s the newest state, over the older of the two copies, durably. What
// failed may have torn that one, so who tries again goes there again, and not over
// the only copy that is whole.
func (s *state) write(to store, uuid [16]byte) error {
	next := *s
	if next.seq++; next.seq > lastSeq {
		next.seq = early(s.seq) + 1
	}
	// Odd sequence numbers stand in block 0, even ones in block 1.
	if err := to.writeStable(next.encode(uuid), stateOff+int64((next.seq+1)%2)*blockBytes); err != nil {
		return err
	}
	s.seq = next.seq
	return nil
}

// renumber has the numbers of the state blocks begin anew where they have come far.
func (s *state) renumber(to store, uuid [16]byte) error {
	if s.seq < lateSeq {
		return nil
	}
	s.seq = early(s.seq)
	for range 2 {
		if err := s.write(to, uuid); err != nil {
			return fmt.Errorf("number the state blocks anew: %w", err)
		}
	}
	return nil
}

// distrust makes s the newest state, without a place to be trusted in, and both copies
// say so: the older one must not bring back what is not so any more. A write of it may
// fail with the news that is why, and the next one on the same block succeeds. Where
// none does the other copy is written over: one of them has to say it. It fails when
// neither does.
func (s *state) distrust(to store, uuid [16]byte) error {
	s.where = place{}
	was, good := s.seq, 0
	var failed error
	for tries := 0; tries < 4 && good < 2; tries++ {
		if tries == 2 && good == 0 {
			s.seq++ // on to the other block
		}
		if err := s.write(to, uuid); err != nil {
			failed = err
			continue
		}
		good++
	}
	if good == 0 {
		s.seq = was
		return failed
	}
	return nil
}

// bootID is where the kernel tells one of its runs from the next.
const bootID = "/proc/sys/kernel/random/boot_id"

// whereIs says in which place f is. Where the kernel does not tell its boot id
// the place is the zero place, which equals none: recovery is then from what
// was committed.
func whereIs(f *os.File) (place, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return place{}, err
	}
	p := place{dev: uint64(st.Dev), ino: st.Ino} //nolint:unconvert // 32 bits on some machines
	text, err := os.ReadFile(bootID)
	if err != nil {
		return place{}, nil
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	if err != nil || len(raw) != len(p.boot) {
		return place{}, nil
	}
	copy(p.boot[:], raw)
	return p, nil
}

// trusted says that the live table of an image in this state, found in place
// here, is what guests were told.
func (s *state) trusted(here place) bool { return s.clean || s.where.same(here) }

// same says that nothing can have been lost between p and q.
func (p place) same(q place) bool { return p == q && p != place{} }
