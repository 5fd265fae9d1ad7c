// Package backend is storage: it opens a disk (open.go) and has the zoned disks.
//
// What every kind of disk shares is in backend/disk, the zone model in backend/zone,
// ordinary disks are in backend/plain, zoned drives of the host in backend/drive, image
// files in backend/image. Here is the zoned disk over an image (zoned_posix.go: opening,
// closing and dispatching; zoned_write.go, zoned_read.go, zoned_manage.go, zoned_erase.go:
// the requests; zoned_queue.go: who waits at a zone, and admission; zoned_disk.go: the types;
// zoned_resume.go: what the previous process had begun), with the one goroutine that makes
// things durable (committer.go). A file uses those that docs/architecture.md lists below it.
//
// It may import the packages below it, internal/iovec, internal/memfault, internal/plant and
// internal/failpoint. It never imports virtio or vhostuser, and it logs nothing: errors
// travel up and are logged once, at the edge.
//
// It implements the zone model of the virtio specification, "Block Device /
// Device Operation" (VIRTIO_BLK_F_ZONED), itself the common part of ZBC r05 and
// the NVMe ZNS command set.
package backend
