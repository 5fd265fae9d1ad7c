// Command zvhost gives virtual machines zoned disks over vhost-user.
//
// What lives here: the cobra commands, one file each; what they read from flags
// (size.go, flags.go, start.go) and what they print (zonelines.go, zonemap.go).
// Flags in, calls out, exit codes: 0 when all went well, 1 when it did not, 2
// when the command line was wrong, 3 when a daemon could not begin and would not
// the next time.
//
// It may import internal/daemon, internal/control (its client), internal/bench,
// backend and cobra. The options that management software relies on follow "Backend program
// conventions" of QEMU's docs/interop/vhost-user.rst.
package main
