//go:build !zvhost_onelock

package drive

import "github.com/zvhost/zvhost/backend/disk"

// deviceLock is what a write holds beside its zone while its data goes to the
// drive: nothing. Only the benchmark builds it otherwise (lock_one.go).
type deviceLock struct{}

const oneLock = false

func (*deviceLock) take(*request) bool      { return true }
func (*deviceLock) give(*Drive, *disk.Lane) {}
