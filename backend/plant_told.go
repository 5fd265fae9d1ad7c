//go:build zvhost_plant_told

package backend

const (
	plantEarlyPointer = false
	plantLostPointer  = false
	plantStaleData    = false
	plantLateMark     = false
	plantUnsynced     = false
	plantMerged       = false
	plantToldOnce     = true
)
