// Package backend is storage: it carries out what a guest asked of its disk.
//
// What lives here: the request and its errors (backend.go), the lane on which
// one worker drives requests through a disk (lane.go), the zoned backend over POSIX files (zoned_posix.go: opening
// and closing; zoned_read.go, zoned_write.go, zoned_manage.go: the requests), the
// one goroutine that makes things durable (committer.go), what a test lets go
// wrong (fault.go, faults.go, zoned_state.go), the image file under
// them (image.go: the layout; image_table.go, image_state.go: its parts;
// image_recover.go: recovery; image_commit.go: its changes; lock.go, report.go,
// check.go), zoned drives of the host (drive.go, drive_*.go) and ordinary disks
// (plain_posix.go; null.go: without storage).
//
// It may import backend/zone, backend/engine, internal/iovec, internal/memfault and
// internal/failpoint. It never imports
// virtio or vhostuser, and it logs nothing: errors travel up and are logged
// once, at the edge.
//
// It implements the zone model of the virtio specification, "Block Device /
// Device Operation" (VIRTIO_BLK_F_ZONED), itself the common part of ZBC r05 and
// the NVMe ZNS command set.
package backend
