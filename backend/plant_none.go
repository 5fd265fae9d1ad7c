//go:build !zvhost_plant_early && !zvhost_plant_lost && !zvhost_plant_stale && !zvhost_plant_unsynced && !zvhost_plant_latemark && !zvhost_plant_merged && !zvhost_plant_told

package backend

// Bugs planted on purpose, by build tags, to show that the tests under crashes, power
// cuts, failing drives and a kernel that loses data find (integration/crash, powercut,
// drives, writeback). All are off in what is shipped, and being constants leave nothing
// behind in it.
const (
	plantEarlyPointer = false // the write pointer moves before the data is there
	plantLostPointer  = false // now and then a write is answered without its pointer being stored
	plantStaleData    = false // recovery leaves what stands above the write pointers
	plantLateMark     = false // what is in flight is noted only when it has landed
	plantUnsynced     = false // a flush commits the zone table without having synced the data
	plantMerged       = false // who was made one with a drive's write that failed is told that it was good
	plantToldOnce     = false // of data that the kernel has lost only who is told knows, a write or a sync
)
