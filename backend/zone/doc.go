// Package zone is the zone model of a host-managed disk, pure: no I/O, no clock, no lock.
//
// It has the zone types and states and the transitions between them (state.go), the
// accounting of open and active zones (resources.go), the geometry of a disk
// (geometry.go), a zone's entry in a table, which fits one 64-bit word (entry.go), and how
// an operator names zones (numbers.go). All numbers are sectors of 512 bytes unless a name
// says otherwise.
//
// It imports nothing of this module. It implements the virtio specification, "Block Device
// / Device Operation" (VIRTIO_BLK_F_ZONED): the zone states and their transitions.
package zone
