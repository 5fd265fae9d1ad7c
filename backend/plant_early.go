//go:build zvhost_plant_early

package backend

const (
	plantEarlyPointer = true
	plantLostPointer  = false
	plantStaleData    = false
	plantLateMark     = false
	plantUnsynced     = false
	plantMerged       = false
	plantToldOnce     = false
)
