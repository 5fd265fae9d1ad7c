package vhostuser

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/inflight"
)

// Only memory that cannot shrink is a record: a worker holds a zone's lock when it
// writes there.
func TestForeignRecord(t *testing.T) {
	p := connect(t, new(fakeDevice))
	p.negotiate()
	area := InflightArea{Queues: 2, QueueSize: 64}
	answer, err := ParseInflightArea(p.call(GetInflightFD, area.Append(nil)))
	if err != nil || len(p.m.Files) != 1 {
		t.Fatal(err, p.m.Files)
	}
	record := p.m.Take(0)
	p.must(SetInflightFD, answer.Append(nil), record.Int())
	p.mustNot("not one that zvhost has made", SetInflightFD, answer.Append(nil), memFD(t, int64(answer.Bytes)))
	p.mustNot("not one that zvhost has made", SetInflightFD, answer.Append(nil), eventFD(t))
	other := answer
	other.Offset = 4096
	p.mustNot("not one that zvhost has made", SetInflightFD, other.Append(nil), record.Int())
	p.mustNot("3 queues, the device has 2", SetInflightFD, InflightArea{Queues: 3, QueueSize: 64}.Append(nil), record.Int())
	if err := unix.Ftruncate(record.Int(), 0); err == nil {
		t.Error("it can be cut short")
	}
	p.setUp(0)
	p.kick(0)
	p.mustNot("ring 0 runs", SetInflightFD, answer.Append(nil), record.Int())
	_ = record.Close()
	if err := p.leave(); err != nil {
		t.Fatal(err)
	}
}

// A front-end that begins anew with an empty record, as after a reset of the guest, is
// not held to what an earlier one said: its rings begin where it says.
func TestEmptyRecordAfterAnother(t *testing.T) {
	p := connect(t, new(fakeDevice))
	p.negotiate()
	rec, err := inflight.New(2, 64)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := rec.Ring(0).Begin(inflight.Start{Size: 64, Life: 5}, 0); err != nil { // ring 0 was served in its 5th life
		t.Fatal(err)
	}
	area := InflightArea{Bytes: uint64(inflight.Bytes(2, 64)), Queues: 2, QueueSize: 64}
	p.must(SetInflightFD, area.Append(nil), rec.FD())
	p.call(GetInflightFD, area.Append(nil))
	empty := p.m.Take(0)
	p.must(SetInflightFD, area.Append(nil), empty.Int())
	p.setUp(0)
	p.kick(0)
	p.tells("features 0x100020000; start 0 at 7")
	if err := errors.Join(empty.Close(), rec.Close(), p.leave()); err != nil {
		t.Fatal(err)
	}
}
