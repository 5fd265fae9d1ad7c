// Package handover is what one process leaves to the next, so that the next one can go on
// with a session of a front-end that notices nothing.
//
// What lives here: the state of the session and the message that was acted on last, in
// memory that outlives the process (journal.go); the pieces in which a message stands in
// the socket while it is read ahead (pieces.go); the descriptors that a service manager
// stores (saver.go); what the next process finds of all this (stored.go), and how it reads
// the state (reader.go).
//
// It may import internal/foreign and golang.org/x/sys/unix. It knows neither the messages
// nor what a state says: package vhostuser has both, and the order of the steps
// (session_handover.go).
//
// It implements the other end of sd_notify(3), FDSTORE=1, as far as it is not systemd's:
// internal/daemon speaks to the service manager. docs/restart.md says why the order is
// safe.
package handover
