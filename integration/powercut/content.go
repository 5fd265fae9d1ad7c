package main

import (
	"encoding/binary"
	"fmt"
)

const sectorBytes = 512

// A stamp says which sector of which request this is. The zero stamp is a
// sector of zeroes.
type stamp struct {
	id    uint64 // of the request, from 1, never used twice in a run
	index uint64 // sector within the request
}

func (s stamp) String() string {
	if s == (stamp{}) {
		return "zeroes"
	}
	return fmt.Sprintf("sector %d of request %d", s.index, s.id)
}

// contentMagic makes sectors of another run foreign.
const contentMagic = 0x7a76_706f_7765_7200

// fill writes the sectors of request id.
func fill(b []byte, seed, id uint64) {
	for i := uint64(0); len(b) > 0; i++ {
		fillSector(b[:sectorBytes], seed, stamp{id, i})
		b = b[sectorBytes:]
	}
}

// pattern is what is between a sector's two stamps.
var pattern = func() (p [sectorBytes]byte) {
	for i := range p {
		p[i] = byte(i*7 + 3)
	}
	return p
}()

// fillSector makes a sector that begins and ends with its stamp.
func fillSector(b []byte, seed uint64, s stamp) {
	copy(b, pattern[:])
	le := binary.LittleEndian
	for _, at := range []int{0, sectorBytes - 24} {
		le.PutUint64(b[at:], contentMagic^seed)
		le.PutUint64(b[at+8:], s.id)
		le.PutUint64(b[at+16:], s.index)
	}
}

// parse reads sectors back. Anything but zeroes and whole sectors of this run is
// an error.
func parse(b []byte, seed uint64) ([]stamp, error) {
	le := binary.LittleEndian
	stamps := make([]stamp, 0, len(b)/sectorBytes)
	var want, none [sectorBytes]byte
	for ; len(b) > 0; b = b[sectorBytes:] {
		s := stamp{le.Uint64(b[8:]), le.Uint64(b[16:])}
		if le.Uint64(b) == contentMagic^seed {
			fillSector(want[:], seed, s)
		} else {
			s, want = stamp{}, none
		}
		if string(want[:]) != string(b[:sectorBytes]) {
			return stamps, fmt.Errorf("sector %d of them is no whole sector of %v: it begins with % x", len(stamps), s, b[:32])
		}
		stamps = append(stamps, s)
	}
	return stamps, nil
}
