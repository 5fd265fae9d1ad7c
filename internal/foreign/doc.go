// Package foreign handles descriptors that another process has sent: their owner in the code
// (fd.go), the kind of their file (kind.go), reading and signalling without a wait (nowait.go),
// closing them (close.go) and transferring a device's state through them (transfer.go) in
// processes that may hang instead of this one (carrier.go), and the process that holds those that
// cannot be closed when this one ends (holder.go).
//
// The sender is hostile. It shares the open file, and may itself serve the file: a system call
// that waits for the server then waits for ever. So this package makes no call to a file system
// that is not known to be local, and a call that may block runs where it delays nothing else.
//
// It imports the standard library and golang.org/x/sys/unix.
package foreign
