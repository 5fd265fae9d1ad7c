package control

import (
	"time"

	"github.com/zvhost/zvhost/backend/disk"
)

const (
	// MaxLine is the longest request, in bytes, with its newline.
	MaxLine = 64 << 10
	// Patience is how long either side waits for the other to send or to read a line.
	Patience = 10 * time.Second
)

// Command says what a request asks for.
type Command string

// The commands.
const (
	FaultAdd   Command = "fault-add"   // Request.Faults; Answer.IDs
	FaultList  Command = "fault-list"  // Answer.Faults
	FaultClear Command = "fault-clear" // Request.IDs, none for all; Answer.Cleared
	SetState   Command = "set-state"   // Request.Zones and State; Answer.Zones
	Resize     Command = "resize"      // Answer.Sectors, Was and Told
)

// A Request is one line to the daemon.
type Request struct {
	Command Command `json:"command"`
	// Faults are written as backend.ParseFault reads them.
	Faults []disk.Fault `json:"faults,omitempty"`
	IDs    []uint64     `json:"ids,omitempty"`
	// Zones is as backend.ParseZones reads it, State as backend.ParseZoneTarget.
	Zones string `json:"zones,omitempty"`
	State string `json:"state,omitempty"`
}

// An Answer is one line from the daemon.
type Answer struct {
	// Error is one line; empty after success.
	Error   string             `json:"error,omitempty"`
	IDs     []uint64           `json:"ids,omitempty"`    // of the faults added
	Faults  []disk.FaultStatus `json:"faults,omitempty"` // those there are
	Cleared int                `json:"cleared,omitempty"`
	Zones   int                `json:"zones,omitempty"` // how many were set
	// Sectors is the disk's size now, Was what it was before, in sectors of 512 bytes;
	// Told: the front-end was notified of a change.
	Sectors uint64 `json:"sectors,omitempty"`
	Was     uint64 `json:"was,omitempty"`
	Told    bool   `json:"told,omitempty"`
}
