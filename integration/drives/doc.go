// Command drives loads a zoned drive through a zvhost that serves it, makes something fail, and
// checks that guests see what the drive has. It runs as root in a guest that plays the host
// (integration/drives.sh), since the machines that build zvhost have no zoned drives.
//
//	drives agree    a drive that is served: three ways to see its zones agree
//	drives edges    a disk that is served: its blocks, written sector by sector
//	drives kill     kill -9 of the daemon under load; every answered write is there
//	drives keep     kill -9 under a keeper; the guest does not notice
//	drives move     from one daemon to another and back under load; the guest does not notice
//	drives limits   the statuses of a drive whose open or active zones are used up
//	drives faults   null_blk: bad blocks, zones that fail and come back, under load
//	drives scsi     scsi_debug: commands that fail, under load
//	drives storm    any drive: it fails by itself, under load
//
// Contents: serving the drive (daemon.go), the load and its record (load.go), the three reports
// (agree.go), blocks (edges.go), and the failures (limits.go, kill.go, keep.go, move.go, storm.go, faults.go,
// scsi.go). null_blk is configured through configfs (Documentation/block/null_blk.rst),
// scsi_debug through debugfs. Every drive can disappear.
//
// It may import integration/rig, vhostuser/frontend and virtio/driver. It shares no code with
// backend: the zones come from util-linux' blkzone and from zvhost report.
package main
