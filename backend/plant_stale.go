//go:build zvhost_plant_stale

package backend

const (
	plantEarlyPointer = false
	plantLostPointer  = false
	plantStaleData    = true
	plantLateMark     = false
	plantUnsynced     = false
	plantMerged       = false
	plantToldOnce     = false
)
