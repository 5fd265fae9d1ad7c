package engine

import (
	"runtime"
	"sync"
	"testing"
)

// A ring is of one thread from its first call to its last, so who tries whether
// there is one must not be moved to another in between.
func TestProbeStaysOnItsThread(t *testing.T) {
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 200 {
				if err := KindUring.Probe(); err != nil {
					t.Error(err)
					return
				}
				runtime.Gosched()
			}
		})
	}
	all.Wait()
}
