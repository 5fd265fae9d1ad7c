// Command drives measures writes and zone appends into a zoned drive, through two builds of
// zvhost alternately: the shipped one, and one that holds a lock over the whole drive during
// the I/O, as the predecessor of zvhost does (build tag zvhost_onelock). Each serves a drive of
// its own, of the same kind. It runs as root in a guest that plays the host (bench/drives.sh).
//
// Contents: the command and its table (main.go), and one measurement (measure.go).
//
// It may import vhostuser/frontend and virtio/driver.
package main
