// Command drives measures writes and zone appends into a zoned drive, through two
// builds of zvhost in turn: the one that is shipped, and one that holds a lock over
// the whole drive while data goes down, as what zvhost grew out of does (build tag
// zvhost_onelock). Each serves a drive of its own, of the same sort. It runs as
// root in a guest that plays the host (bench/drives.sh).
//
// What lives here: the command and its table (main.go), and one measurement
// (measure.go).
//
// It may import vhostuser/frontend and virtio/driver.
package main
