//go:build zvhost_plant_latemark

package backend

const (
	plantEarlyPointer = false
	plantLostPointer  = false
	plantStaleData    = false
	plantLateMark     = true
	plantUnsynced     = false
	plantMerged       = false
	plantToldOnce     = false
)
