// Package keeper is a small parent for a daemon whose death nobody is to notice:
// 'zvhost keeper'. It has no part in what the daemon does. It holds descriptors for
// it while it is down, starts it again, and hands them over.
//
// What lives here: the fd store and the messages about it (store.go), the life of
// the child (keeper.go), and the step between fork and exec that tells the child
// its own process id (child.go).
//
// It speaks what systemd speaks, so that the daemon knows one protocol:
// sd_notify(3) with READY, STATUS, FDSTORE, FDNAME, FDPOLL and FDSTOREREMOVE, and
// sd_listen_fds(3) with names. It imports the standard library,
// golang.org/x/sys/unix and internal/foreign; cmd/zvhost alone imports it.
package keeper
