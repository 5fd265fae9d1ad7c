//go:build !zvhost_plant

package plant

// The bugs, by the names that planted.go gives them.
const (
	EarlyPointer = false // early: the write pointer moves before the data is there
	LostPointer  = false // lost: now and then a write is answered without its pointer being stored
	StaleData    = false // stale: recovery leaves the data above the write pointers
	LateNote     = false // latenote: a replay note is stored only once its write has landed
	Unsynced     = false // unsynced: a flush commits the zone table without a sync of the data
	Merged       = false // merged: a write that was merged with one that failed on a drive is answered as good
	WriteBack    = false // writeback: what a previous process showed the guest is taken for write-back
	ReportedOnce = false // once: data that the kernel has lost fails only the request to which it was reported
)
