//go:build !zvhost_plant_early && !zvhost_plant_lost && !zvhost_plant_stale

package backend

// Bugs planted on purpose, by build tags, to show that the crash tests find
// them (integration/crash). All are off in what is shipped, and being constants
// leave nothing behind in it.
const (
	plantEarlyPointer = false // the write pointer moves before the data is there
	plantLostPointer  = false // now and then a write is answered without its pointer being stored
	plantStaleData    = false // recovery leaves what stands above the write pointers
)
