// Package rig is shared by the tests of the real zvhost binary. It drives the binary; the tests
// decide what is right.
//
// Contents: zvhost built and in a process of its own (daemon.go), the disks that it serves
// (geometry.go), sectors that name the request that wrote them (content.go), and the machine, if
// a test creates file systems (machine.go).
//
// It is for packages under integration only. It may import vhostuser/frontend and virtio/driver,
// and shares no code with backend, so that a mistake on one side is detected. It implements
// nothing.
package rig
