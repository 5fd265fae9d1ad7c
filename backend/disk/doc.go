// Package disk is what every kind of disk shares, and what a worker knows of one.
//
// It has the Request and its errors (request.go), the Disk that carries requests out and
// the Lane on which one worker drives them (lane.go), what requests to zoned disks are held
// to (rules.go), the replay notes from which the next process finishes what this one had
// begun (note.go), the faults that a test asks for (fault.go, faults.go), memory that a
// device can reach (direct.go), storage whose blocks are larger than the disk's (spans.go),
// syncs and what the kernel reports of lost data (syncs.go), a file that another process
// cuts short (filesize.go), locks and users of files and devices (lock.go, users.go), what
// the kernel says of a block device (blockdev.go), and what a disk is opened with
// (options.go). It knows no kind of disk: those are in package backend.
//
// It may import backend/zone, backend/engine, internal/iovec, internal/memfault and
// internal/plant. It implements the virtio specification, "Block Device / Device
// Operation", as far as it is the same for all disks.
package disk
