// Package vm boots guests under QEMU, runs commands in them and collects what they
// print. It is what guest.sh is for shell scripts: the same kernel, initramfs and agent
// (fetch.sh, guest/agent), and tests that read from top to bottom.
//
// What lives here: where a test keeps its files, daemons and guests (host.go); a guest's
// QEMU (boot.go, disk.go) and its life (guest.go); commands in it (agent.go); QEMU's own
// monitor (qmp.go, after QEMU's docs/interop/qmp-spec.rst); how a program of tests
// reports (report.go).
//
// It is for packages under integration only, and may import integration/rig. It runs no
// root and needs no KVM.
package vm
