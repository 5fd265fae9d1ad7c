package format

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
	FaultsOff    = 12 * 1024
	FaultsMagic  = "ZVFAULTS"
	FaultsHeader = 32
	// maxFaultsText is how much text an image's faults may have, in bytes.
	maxFaultsText = BlockBytes - FaultsHeader

	// FeatureFaults is a compatible feature: who does not know it serves the
	// image without its faults.
	FeatureFaults = 1 << 0
)

// ErrDamagedFaults is a block of faults that is not one.
var ErrDamagedFaults = errors.New("damaged")

// ErrUnknownFaults is a whole block of faults with words that this zvhost does not know.
var ErrUnknownFaults = errors.New("unknown faults")

type unknownFaults struct{ error }

func (*unknownFaults) Is(target error) bool { return target == ErrUnknownFaults }

// EncodeFaults returns the block that holds these faults, or an error if they do not fit
// into it.
func EncodeFaults(faults []disk.Fault, uuid [16]byte) ([]byte, error) {
	var text bytes.Buffer
	for _, f := range faults {
		fmt.Fprintln(&text, f)
	}
	if text.Len() > maxFaultsText {
		return nil, fmt.Errorf("%d faults are too many to stand in the image: they have %d bytes, at most %d fit; add the others when it is served", len(faults), text.Len(), maxFaultsText)
	}
	b := make([]byte, BlockBytes)
	copy(b, FaultsMagic)
	binary.LittleEndian.PutUint32(b[12:], uint32(text.Len()))
	copy(b[16:], uuid[:])
	copy(b[FaultsHeader:], text.Bytes())
	binary.LittleEndian.PutUint32(b[8:], Checksum(b, 8))
	return b, nil
}

// DecodeFaults returns the faults in block b. The error wraps ErrDamagedFaults if the block
// is not whole, and is another one if it has faults that this zvhost does not know.
func DecodeFaults(b []byte, l *Layout) (faults []disk.Fault, err error) {
	n := binary.LittleEndian.Uint32(b[12:])
	switch {
	case string(b[:8]) != FaultsMagic:
		return nil, fmt.Errorf("%w: it does not start like one", ErrDamagedFaults)
	case binary.LittleEndian.Uint32(b[8:]) != Checksum(b, 8):
		return nil, fmt.Errorf("%w: its checksum is wrong", ErrDamagedFaults)
	case !bytes.Equal(b[16:32], l.UUID[:]):
		return nil, fmt.Errorf("%w: it belongs to another image", ErrDamagedFaults)
	case n > maxFaultsText:
		return nil, fmt.Errorf("it says that it has %d bytes of text, more than fit", n)
	}
	info := disk.Describe(&l.Geometry, false)
	for line := range strings.Lines(string(b[FaultsHeader:][:n])) {
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

// ReadFaults reads the faults that the image was created with.
func ReadFaults(f io.ReaderAt, l *Layout) ([]disk.Fault, error) {
	faults, err := FaultsIn(f, l)
	switch {
	case errors.Is(err, ErrDamagedFaults):
		return nil, disk.Damagedf("the block of its faults is %w; run 'zvhost check --repair' to go on without them", err)
	case errors.Is(err, ErrUnknownFaults):
		return nil, disk.Damagedf("the block of its faults: %w; run 'zvhost check'", err)
	}
	return faults, err
}

// FaultsIn is ReadFaults with errors that do not say what the operator can do.
func FaultsIn(f io.ReaderAt, l *Layout) ([]disk.Fault, error) {
	if l.Compat&FeatureFaults == 0 {
		return nil, nil
	}
	b := make([]byte, BlockBytes)
	if _, err := f.ReadAt(b, FaultsOff); err != nil {
		return nil, fmt.Errorf("read the faults: %w", err)
	}
	faults, err := DecodeFaults(b, l)
	if err != nil && !errors.Is(err, ErrDamagedFaults) {
		err = &unknownFaults{err}
	}
	return faults, err
}
