// Command zonestates takes the zones of a host-managed disk through every state
// and tries every operation in each, with the calls that blkzone makes: what the
// operation answers, what state the zone is in then, where its write pointer is
// and what it holds has to be what the specification says ("Block Device / Device
// Operation") as Linux shows it. It runs as root in a guest, on a disk that it may
// do anything to (integration/guests/geometries.sh).
//
// What lives here: the kernel's zone calls (blkzone.go), the table of states and
// operations (table.go), and the limits (limits.go).
//
// It imports nothing of this module: it looks at zvhost from where a guest does.
package main
