//go:build zvhost_plant_merged

package backend

const (
	plantEarlyPointer = false
	plantLostPointer  = false
	plantStaleData    = false
	plantLateMark     = false
	plantUnsynced     = false
	plantMerged       = true
	plantToldOnce     = false
)
