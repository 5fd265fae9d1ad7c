//go:build zvhost_plant_lost

package backend

const (
	plantEarlyPointer = false
	plantLostPointer  = true
	plantStaleData    = false
	plantLateMark     = false
	plantUnsynced     = false
	plantMerged       = false
	plantToldOnce     = false
)
