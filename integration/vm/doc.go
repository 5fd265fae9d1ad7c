// Package vm boots guests under QEMU, runs commands in them and collects what they print. It does
// for Go what guest.sh does for shell scripts: the same kernel, initramfs and agent (fetch.sh,
// guest/agent), and tests that read from top to bottom.
//
// Contents: a test's files, daemons and guests (host.go); a guest's QEMU (boot.go, disk.go), its
// start and end (guest.go); commands in it (agent.go); QEMU's monitor (qmp.go, after QEMU's
// docs/interop/qmp-spec.rst); how a test program reports (report.go).
//
// It is for packages under integration only, and may import integration/rig. It needs neither
// root nor KVM.
package vm
