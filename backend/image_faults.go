package backend

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/zvhost/zvhost/backend/disk"
)

// The faults that an image was created with stand in a block of their own. It is
// written once; featureFaults in the superblock says that it is there.
//
//	0   magic "ZVFAULTS"
//	8   CRC-32C of the block with this field zero
//	12  length of the text, bytes
//	16  UUID of the image
//	32  the text: a line for each fault, in the words of ParseFault
const (
	faultsOff    = 12 * 1024
	faultsMagic  = "ZVFAULTS"
	faultsHeader = 32
	// maxFaultsText is how much text an image's faults may have, in bytes.
	maxFaultsText = blockBytes - faultsHeader

	// featureFaults is a compatible feature: who does not know it serves the
	// image without its faults.
	featureFaults = 1 << 0
)

// errDamagedFaults is a block of faults that is not one.
var errDamagedFaults = errors.New("damaged")

// errUnknownFaults is a whole block of faults with words that this zvhost does not know.
var errUnknownFaults = errors.New("unknown faults")

type unknownFaults struct{ error }

func (*unknownFaults) Is(target error) bool { return target == errUnknownFaults }

func encodeFaults(faults []disk.Fault, uuid [16]byte) ([]byte, error) {
	var text bytes.Buffer
	for _, f := range faults {
		fmt.Fprintln(&text, f)
	}
	if text.Len() > maxFaultsText {
		return nil, fmt.Errorf("%d faults are too many to stand in the image: they have %d bytes, at most %d fit; add the others when it is served", len(faults), text.Len(), maxFaultsText)
	}
	b := make([]byte, blockBytes)
	copy(b, faultsMagic)
	binary.LittleEndian.PutUint32(b[12:], uint32(text.Len()))
	copy(b[16:], uuid[:])
	copy(b[faultsHeader:], text.Bytes())
	binary.LittleEndian.PutUint32(b[8:], checksum(b, 8))
	return b, nil
}

func decodeFaults(b []byte, l *layout) (faults []disk.Fault, err error) {
	n := binary.LittleEndian.Uint32(b[12:])
	switch {
	case string(b[:8]) != faultsMagic:
		return nil, fmt.Errorf("%w: it does not start like one", errDamagedFaults)
	case binary.LittleEndian.Uint32(b[8:]) != checksum(b, 8):
		return nil, fmt.Errorf("%w: its checksum is wrong", errDamagedFaults)
	case !bytes.Equal(b[16:32], l.uuid[:]):
		return nil, fmt.Errorf("%w: it belongs to another image", errDamagedFaults)
	case n > maxFaultsText:
		return nil, fmt.Errorf("it says that it has %d bytes of text, more than fit", n)
	}
	info := disk.Describe(&l.Geometry, false)
	for line := range strings.Lines(string(b[faultsHeader:][:n])) {
		f, err := disk.ParseFault(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, err
		}
		if err := f.Check(&info); err != nil {
			return nil, fmt.Errorf("fault %q: %w", f, err)
		}
		faults = append(faults, f)
	}
	return faults, nil
}

// readFaults reads the faults that the image was created with.
func readFaults(f io.ReaderAt, l *layout) ([]disk.Fault, error) {
	faults, err := faultsIn(f, l)
	switch {
	case errors.Is(err, errDamagedFaults):
		return nil, disk.Damagedf("the block of its faults is %w; run 'zvhost check --repair' to go on without them", err)
	case errors.Is(err, errUnknownFaults):
		return nil, disk.Damagedf("the block of its faults: %w; run 'zvhost check'", err)
	}
	return faults, err
}

// faultsIn is readFaults without a word of what to do.
func faultsIn(f io.ReaderAt, l *layout) ([]disk.Fault, error) {
	if l.compat&featureFaults == 0 {
		return nil, nil
	}
	b := make([]byte, blockBytes)
	if _, err := f.ReadAt(b, faultsOff); err != nil {
		return nil, fmt.Errorf("read the faults: %w", err)
	}
	faults, err := decodeFaults(b, l)
	if err != nil && !errors.Is(err, errDamagedFaults) {
		err = &unknownFaults{err}
	}
	return faults, err
}

// faults checks the block of faults.
func (c *checker) faults(l *layout) {
	if _, err := faultsIn(c.f, l); err != nil {
		c.found("faults", "%v", err)
	}
}
