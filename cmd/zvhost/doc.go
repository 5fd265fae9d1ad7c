// Command zvhost gives virtual machines zoned disks over vhost-user.
//
// Contents: the cobra commands, one file each; what they read from flags
// (size.go, flags.go, start.go) and what they print (zonelines.go, zonemap.go).
// Flags in, calls out, exit codes: 0 for success, 1 for a failure, 2 for a wrong
// command line, 3 if a daemon could not start and a retry cannot succeed.
//
// It may import internal/daemon, internal/control (its client), internal/bench,
// backend and cobra. The options that management software relies on follow "Backend program
// conventions" of QEMU's docs/interop/vhost-user.rst.
package main
