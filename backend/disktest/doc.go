// Package disktest is for the tests of disks: a client that drives a disk as a queue worker
// does (client.go), an engine that holds and breaks I/O (held.go), replay notes as a previous
// process leaves them (note.go), a model and a twin that holds a disk against it (model.go,
// twin.go), the suite that every zoned disk has to pass (suite*.go), and a load of several
// workers (stress.go).
//
// It knows disks by the interface of backend/disk only, so that the tests of every kind of
// disk can use it. Tests alone import it.
package disktest
