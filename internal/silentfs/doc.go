// Package silentfs is a FUSE file system that stops answering, for tests of code that must not
// wait for one. It implements just enough of the protocol (linux/fuse.h) to open its one file. It
// also has a socket that lingers, and a pipe whose mutex another process holds.
package silentfs
