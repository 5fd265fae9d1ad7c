package crash

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

// contentMagic makes sectors of another run foreign.
const contentMagic = 0x7a76_686f_7374_0000

// fill writes the sectors of request id: each begins with its stamp, and the
// rest follows from it.
func fill(b []byte, seed, id uint64) {
	for i := uint64(0); len(b) > 0; i++ {
		fillSector(b[:sectorBytes], seed, stamp{id, i})
		b = b[sectorBytes:]
	}
}

func fillSector(b []byte, seed uint64, s stamp) {
	le := binary.LittleEndian
	le.PutUint64(b, contentMagic^seed)
	le.PutUint64(b[8:], s.id)
	le.PutUint64(b[16:], s.index)
	x := seed ^ s.id*0x9e3779b97f4a7c15 ^ s.index<<48
	for at := 24; at < sectorBytes; at += 8 {
		x = (x ^ x>>29) * 0xbf58476d1ce4e5b9
		le.PutUint64(b[at:], x^x>>32)
	}
}

// parse reads one sector back. Anything but zeroes and a whole sector of this
// run is an error.
func parse(b []byte, seed uint64) (stamp, error) {
	le := binary.LittleEndian
	if le.Uint64(b) == contentMagic^seed {
		s := stamp{le.Uint64(b[8:]), le.Uint64(b[16:])}
		var want [sectorBytes]byte
		fillSector(want[:], seed, s)
		if string(want[:]) == string(b[:sectorBytes]) {
			return s, nil
		}
		return s, fmt.Errorf("begins like sector %d of request %d and goes on as something else", s.index, s.id)
	}
	for _, c := range b[:sectorBytes] {
		if c != 0 {
			return stamp{}, fmt.Errorf("holds what nobody wrote: % x...", b[:16])
		}
	}
	return stamp{}, nil
}
