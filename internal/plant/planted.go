//go:build zvhost_plant

package plant

import "slices"

// bug is the name of the bug in this binary; the linker sets it.
var bug string

// The bugs: see none.go.
var (
	EarlyPointer = bug == "early"
	LostPointer  = bug == "lost"
	StaleData    = bug == "stale"
	LateNote     = bug == "latenote"
	Unsynced     = bug == "unsynced"
	Merged       = bug == "merged"
	WriteBack    = bug == "writeback"
	ReportedOnce = bug == "once"
)

func init() {
	if !slices.Contains([]string{"early", "lost", "stale", "latenote", "unsynced", "merged", "writeback", "once"}, bug) {
		panic("internal/plant: no bug is called " + bug + " (-ldflags -X)")
	}
}
