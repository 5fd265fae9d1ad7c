// Package silentfs is a FUSE file system that stops answering, for tests of what must not
// wait for one. It speaks just enough of the protocol (linux/fuse.h) to have its one file
// opened. Beside it there is a socket that lingers, and a pipe whose mutex somebody holds.
package silentfs
