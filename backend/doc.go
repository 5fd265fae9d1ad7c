// Package backend is storage: it opens a disk (open.go) and has the zoned disks.
//
// What every kind of disk shares is in backend/disk, the zone model in backend/zone,
// ordinary disks are in backend/plain, zoned drives of the host in backend/drive. Here are
// the zoned disk over an image
// (zoned_posix.go: opening and closing; zoned_write.go, zoned_read.go, zoned_manage.go,
// zoned_erase.go: the requests; zoned_flight.go: the writes in flight; zoned_resume.go: what
// the previous process had begun), the one goroutine that makes things durable
// (committer.go), the image file (image.go: the layout; image_table.go, image_state.go: its
// parts; image_recover.go: recovery; image_commit.go: its changes; check.go, repair.go,
// report.go).
//
// It may import backend/disk, backend/plain, backend/drive, backend/zone, backend/engine, internal/iovec,
// internal/memfault, internal/plant and internal/failpoint. It never imports virtio or
// vhostuser, and it logs nothing: errors travel up and are logged once, at the edge.
//
// It implements the zone model of the virtio specification, "Block Device /
// Device Operation" (VIRTIO_BLK_F_ZONED), itself the common part of ZBC r05 and
// the NVMe ZNS command set.
package backend
