// Package rig is what the tests of the real zvhost share: what they drive it with, and
// not what they hold it to.
//
// What lives here: zvhost built and in a process of its own (daemon.go), the disks that
// it serves (geometry.go), sectors that say which request they belong to (content.go),
// and the machine, where a test makes file systems (machine.go).
//
// It is for packages under integration only. It may import vhostuser/frontend and
// virtio/driver, and shares no code with backend, so that a mistake on one side shows.
// It implements nothing.
package rig
