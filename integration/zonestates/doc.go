// Command zonestates puts the zones of a host-managed disk into every state and tries every
// operation in each, with the calls that blkzone makes. The operation's result, the state of the
// zone after it, its write pointer and its data must be what the specification says ("Block
// Device / Device Operation") as Linux shows it. It runs as root in a guest, on a disk whose data
// it may destroy (integration/guests/geometries.sh).
//
// Contents: the kernel's zone calls (blkzone.go), the table of states and operations (table.go),
// and the limits (limits.go).
//
// It imports nothing of this module: it sees zvhost as a guest does.
package main
