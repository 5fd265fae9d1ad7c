package handover

// MaxPieces is how many pieces a message may come in.
const MaxPieces = 4

// Pieces are the lengths, in bytes, of the pieces in which a message came: each is what one
// recvmsg(2) takes from the socket. A part of a message that brings descriptors ends a
// piece (net/unix/af_unix.c, unix_stream_read_generic).
type Pieces []uint32

// Add appends a part of n bytes. joined says that it belongs to the piece before it.
func (p Pieces) Add(n int, joined bool) Pieces {
	if joined && len(p) > 0 {
		p[len(p)-1] += uint32(n)
		return p
	}
	return append(p, uint32(n))
}
