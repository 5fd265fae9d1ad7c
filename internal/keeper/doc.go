// Package keeper is a small parent for a daemon whose death a guest must not notice: 'zvhost
// keeper'. It takes no part in the daemon's work. It holds descriptors for the daemon, starts it
// again when it has ended, and passes them to it.
//
// Contents: the fd store and its messages (store.go), starting and ending the child (keeper.go),
// and the step between fork and exec that gives the child its own process id (child.go).
//
// It speaks systemd's protocol, so that the daemon needs only one: sd_notify(3) with READY,
// STATUS, FDSTORE, FDNAME, FDPOLL and FDSTOREREMOVE, and sd_listen_fds(3) with names. It imports
// the standard library, golang.org/x/sys/unix and internal/foreign; only cmd/zvhost imports it.
package keeper
