//go:build zvhost_plant_unsynced

package backend

const (
	plantEarlyPointer = false
	plantLostPointer  = false
	plantStaleData    = false
	plantLateMark     = false
	plantUnsynced     = true
	plantMerged       = false
	plantToldOnce     = false
)
