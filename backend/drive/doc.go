// Package drive serves the zones of a zoned block device of the host, or a window of them,
// as a disk: opening and limits (drive.go), what the kernel says of zones (kernel.go), writes
// and appends, which a drive takes in order (write.go, parts.go), reads (read.go), zone
// management (manage.go), zones whose state has to be asked for (look.go), and requests that
// the previous process had begun (resume.go). lock_one.go is one lock over all of it, in the
// benchmark's build only.
//
// It may import backend/disk, backend/zone, backend/engine, internal/iovec and
// internal/plant. It logs nothing: errors are returned.
package drive
