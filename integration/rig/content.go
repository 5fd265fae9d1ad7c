package rig

import (
	"encoding/binary"
	"fmt"
)

// A Stamp says which sector of which request this is. The zero stamp is a
// sector of zeroes.
type Stamp struct {
	ID    uint64 // of the request, from 1, never used twice in a run
	Index uint64 // sector within the request
}

func (s Stamp) String() string {
	if s == (Stamp{}) {
		return "zeroes"
	}
	return fmt.Sprintf("sector %d of request %d", s.Index, s.ID)
}

// contentMagic makes sectors of another run foreign.
const contentMagic = 0x7a76_686f_7374_0000

// Fill writes the sectors of request id: each begins with its stamp, and the
// rest follows from it.
func Fill(b []byte, seed, id uint64) {
	for i := uint64(0); len(b) > 0; i++ {
		fillSector(b[:SectorBytes], seed, Stamp{id, i})
		b = b[SectorBytes:]
	}
}

func fillSector(b []byte, seed uint64, s Stamp) {
	le := binary.LittleEndian
	le.PutUint64(b, contentMagic^seed)
	le.PutUint64(b[8:], s.ID)
	le.PutUint64(b[16:], s.Index)
	x := seed ^ s.ID*0x9e3779b97f4a7c15 ^ s.Index<<48
	for at := 24; at < SectorBytes; at += 8 {
		x = (x ^ x>>29) * 0xbf58476d1ce4e5b9
		le.PutUint64(b[at:], x^x>>32)
	}
}

// Parse reads sectors back. Anything but zeroes and whole sectors of this run is
// an error; what stands before that is returned.
func Parse(b []byte, seed uint64) ([]Stamp, error) {
	stamps := make([]Stamp, 0, len(b)/SectorBytes)
	for ; len(b) > 0; b = b[SectorBytes:] {
		s, err := parseSector(b[:SectorBytes], seed)
		if err != nil {
			return stamps, fmt.Errorf("sector %d of them %w", len(stamps), err)
		}
		stamps = append(stamps, s)
	}
	return stamps, nil
}

func parseSector(b []byte, seed uint64) (Stamp, error) {
	le := binary.LittleEndian
	var s Stamp
	var want [SectorBytes]byte
	if le.Uint64(b) == contentMagic^seed {
		s = Stamp{le.Uint64(b[8:]), le.Uint64(b[16:])}
		fillSector(want[:], seed, s)
	}
	if string(want[:]) != string(b) {
		return s, fmt.Errorf("is no whole one of %v: it begins with % x", s, b[:32])
	}
	return s, nil
}
