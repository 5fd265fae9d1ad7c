// Command drives keeps a zoned drive busy through a zvhost that serves it, has
// something go wrong, and looks whether what guests see is what the drive has. It
// runs as root in a guest that plays the host (integration/drives.sh): the
// machines that zvhost is built on have no zoned drives.
//
//	drives agree    a drive that is served: three ways to see its zones agree
//	drives kill     kill -9 of the daemon under load; every answered write is there
//	drives keep     kill -9 under a keeper; the guest does not notice
//	drives move     from one daemon to another and back under load; nor then
//	drives limits   the statuses of a drive whose open or active zones are used up
//	drives faults   null_blk: bad blocks, zones that fail and come back, under load
//	drives scsi     scsi_debug: commands that fail, under load
//	drives storm    any drive: it fails by itself, under load
//
// What lives here: how the drive is served (daemon.go), the load and
// what it remembers (load.go), the three reports (agree.go), and what goes wrong
// (limits.go, kill.go, keep.go, move.go, storm.go, faults.go, scsi.go). Faults are asked of null_blk
// through configfs (Documentation/block/null_blk.rst), and of scsi_debug through
// debugfs. Every drive can vanish.
//
// It may import integration/rig, vhostuser/frontend and virtio/driver. It shares no code with
// backend: the zones come from util-linux' blkzone and from zvhost report.
package main
