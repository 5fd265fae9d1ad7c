// Package format is the image file's format, as docs/image-format.md describes it: where its
// parts are and what the superblock says (layout.go), the two zone tables (table.go), the
// state blocks, which say how the last daemon left the image (state.go), the block of faults
// (faults.go), and what a zone is after a crash (zones.go). It reads, checks and encodes;
// when what is written, and in which order, is decided in backend/image.
//
// It may import backend/disk and backend/zone.
package format
