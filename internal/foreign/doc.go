// Package foreign is for descriptors that another process has sent: which code owns one
// (fd.go), what kind of file it is (kind.go), how it is read and signalled without a wait
// (nowait.go), how it is closed (close.go) and a device's state is carried through it
// (transfer.go), by processes that may hang instead of this one (carrier.go), and which
// process holds those that cannot be closed when this one ends (holder.go).
//
// The sender is hostile. It shares the open file, and whatever serves the file may be its
// own: a system call that waits for that waits for ever. So nothing here asks a file system
// that is not known, and what may block is called where a block hurts nobody.
//
// It imports the standard library and golang.org/x/sys/unix.
package foreign
