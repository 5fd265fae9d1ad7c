// Package powercut simulates what a host's disk would have of a file after a power cut. Tests put
// it under a backend: they report every write, hole and sync to it, and ask it at any moment for a
// file that a power cut might leave.
//
// It assumes only what POSIX and Linux promise: what was synced is there; each other block may be
// there or not, in any version since, and torn between sectors. It imports the standard library
// alone and is imported by tests only.
package powercut
