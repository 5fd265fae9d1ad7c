// Package powercut keeps book of what a host's disk would have of a file if the
// power went now. Tests put it under a backend: they tell it of every write,
// hole and sync, and ask it at any moment for a file that a power cut might
// leave.
//
// What POSIX and Linux promise is all that counts: what was synced is there; of
// the rest, each block may be there or not, in any version it has had since, and
// torn between sectors. It imports the standard library alone and is imported by
// tests only.
package powercut
