package vfiouser

import (
	"errors"
	"testing"
)

// A message is sent and read with two allocations: the address that x/sys makes for each of two
// recvmsg. Each notification of a driver is a message.
func TestMessageAllocations(t *testing.T) {
	a, b := socketPair(t)
	from, err := NewConn(a)
	if err != nil {
		t.Fatal(err)
	}
	to, err := NewConn(b)
	if err != nil {
		t.Fatal(err)
	}
	payload := Access{Offset: 0x3000, Region: 0, Count: 2, Data: []byte{0, 0}}.Append(nil)
	m := new(Message)
	round := func() {
		err := from.Write(Header{ID: 1, Command: RegionWrite, Flags: FlagNoReply}, payload)
		if err := errors.Join(err, to.ReadCommand(m)); err != nil {
			t.Fatal(err)
		}
	}
	// The runtime allocates too, now and then.
	got := 100.0
	for try := 0; try < 5 && got > 2; try++ {
		got = testing.AllocsPerRun(100, round)
	}
	if got > 2 {
		t.Errorf("%v allocations", got)
	}
	if err := errors.Join(from.Close(), to.Close()); err != nil {
		t.Error(err)
	}
}
