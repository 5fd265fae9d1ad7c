// Package plain is ordinary disks: a file or a block device, byte for byte (plain.go), and
// a disk without storage (null.go).
//
// It has the state of a request (request.go), syncs, of which one is under way at a time
// (sync.go), storage whose blocks are larger than the disk's (edges.go), growth (grow.go),
// and what the contents of a file look like (foreign.go).
//
// It may import backend/disk, backend/engine, backend/zone and internal/plant. It implements
// the virtio specification, "Block Device / Device Operation", for disks without zones.
package plain
