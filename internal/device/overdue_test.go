package device

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/zvhost/zvhost/backend/disk"
)

// What the disk leaves without an answer for two whole rounds is told of once, and its
// end too; requests that come and go beside it make no difference. The number of rounds
// may begin anew meanwhile.
func TestOverdue(t *testing.T) {
	for _, first := range []uint32{1, roundsMask - 1, roundsMask} {
		var said []string
		say := func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
		o := &overdue{queue: 3, taken: make([]uint32, 4), warn: say, inform: say}
		o.round.Store(first)
		o.add(1, disk.OpRead)
		for range 3 {
			o.add(0, disk.OpWrite)
			o.done(0)
			o.show()
			o.look(5 * time.Second)
		}
		o.add(2, disk.OpAppend)
		for range 4 {
			o.look(5 * time.Second)
		}
		o.done(1)
		o.show()
		o.look(5 * time.Second)
		o.done(2)
		o.show()
		o.look(5 * time.Second)
		o.add(2, disk.OpAppend)
		o.add(3, disk.OpFlush)
		o.show()
		for range 3 {
			o.look(5 * time.Second)
		}
		o.done(2)
		o.done(3)
		o.show()
		o.look(5 * time.Second)
		o.add(1, disk.OpReset) // the worker is stuck with it
		for range 3 {
			o.look(5 * time.Second)
		}
		const which = "waits for the disk, which has not answered for 5s: look after the disk (is its file system frozen, full or out of reach?)"
		want := []string{
			"queue 3: a request (read) " + which,
			"queue 3: the disk has answered the overdue requests",
			"queue 3: 2 requests (the oldest: flush) " + which,
			"queue 3: the disk has answered the overdue requests",
			"queue 3: a request (reset) " + which,
		}
		if !slices.Equal(said, want) {
			t.Errorf("from round %d on: said %q", first, said)
		}
	}
}
