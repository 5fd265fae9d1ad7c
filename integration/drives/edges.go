package main

import (
	"bytes"
	"errors"
	"fmt"
)

// edges works on a disk that is served, an ordinary one or one that begins with
// conventional zones: sectors one by one and a few at a time, also where the storage has
// larger blocks. What it says is what a guest sees of the disk's blocks.
func (h *host) edges() (string, error) {
	disk, err := h.connect(bufferBytes)
	if err != nil {
		return "", err
	}
	said, err := h.edgesOf(disk.Queue(0).Read, disk.Queue(0).Write, disk.Config.BlkSize, disk.Config.Capacity)
	return said, errors.Join(err, disk.Queue(0).Flush(), disk.Close())
}

// edgesOf is edges of a disk that is read and written like this, with blocks of so many
// bytes.
func (h *host) edgesOf(read, write func([]byte, uint64) error, block uint32, sectors uint64) (string, error) {
	const sectorBytes, requests = 512, 200
	n := min(sectors, bufferBytes/sectorBytes)
	unit := uint64(block) / sectorBytes
	want, got := make([]byte, n*sectorBytes), make([]byte, n*sectorBytes)
	if err := read(want, 0); err != nil {
		return "", fmt.Errorf("read the first %d sectors: %w", n, err)
	}
	for range requests {
		first := h.rng.Uint64N(n/unit) * unit
		part := want[first*sectorBytes:]
		part = part[:min(uint64(len(part)), (1+h.rng.Uint64N(3))*uint64(block))]
		for i := range part {
			part[i] = byte(h.rng.Uint32())
		}
		if err := write(part, first); err != nil {
			return "", fmt.Errorf("write %d bytes at sector %d: %w", len(part), first, err)
		}
	}
	if err := read(got, 0); err != nil {
		return "", fmt.Errorf("read the first %d sectors: %w", n, err)
	}
	if !bytes.Equal(got, want) {
		return "", errors.New("the first sectors are not what was written")
	}
	return fmt.Sprintf("blocks of %d bytes, %d sectors", block, sectors), nil
}
