// Package image opens, recovers, changes, checks and repairs zoned image files: creating one
// (create.go, start.go), opening and locking (open.go), recovery after a crash (recover.go),
// the live table (live.go), commits (commit.go), who uses it (user.go), reading its zones
// beside a daemon (report.go), what kind of disk a file is (probe.go), zvhost check
// (check.go) and its repairs (repair*.go). The format is in backend/image/format; guests' I/O
// on an image is in package backend (zoned_posix.go).
//
// It may import backend/disk, backend/zone, backend/engine, internal/failpoint,
// internal/memfault and internal/plant. It logs nothing: errors are returned.
package image
