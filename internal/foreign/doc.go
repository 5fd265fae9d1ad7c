// Package foreign is for descriptors that another process has sent: what they are
// (kind.go), how they are closed (close.go), and what becomes at the end of the process of
// those that cannot be (holder.go).
//
// The sender is hostile. It shares the open file, and whatever serves the file may be its
// own: a system call that waits for that waits for ever. So nothing here
// asks a file system that is not known, and close(2) is called where a block hurts nobody. It imports the standard library and golang.org/x/sys/unix.
package foreign
