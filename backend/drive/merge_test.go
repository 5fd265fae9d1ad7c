//go:build !zvhost_onelock

// See zones_test.go for why not in that build.

package drive

import (
	"bytes"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

// Writes and appends of a zone that stand in line behind one in flight become
// one where they follow one another, up to what the drive takes at once (32
// sectors here). Each has its own place and its own outcome. Zone 2 begins at
// sector 256 and takes 96; its first 8 are the write in flight.
func TestMerges(t *testing.T) {
	data := disktest.Pattern('x', 8*512)
	add := func() *disk.Request { return disktest.NewRequest(disk.OpAppend, 256, data) }
	write := func(at, sectors int) *disk.Request {
		return disktest.NewRequest(disk.OpWrite, 256+uint64(at), disktest.Pattern('w', sectors*512))
	}
	stable := func(r *disk.Request) *disk.Request {
		r.Stable = true
		return r
	}
	vectors := func(n int) *disk.Request {
		r := add()
		for len(r.Iov) < n {
			r.Iov = append(r.Iov, unix.Iovec{})
		}
		return r
	}
	for name, tt := range map[string]struct {
		line []*disk.Request
		sent []written // behind the first
		at   []int     // where each landed, -1 if it did not
		errs map[int]error
	}{
		"appends, to the limit": {
			[]*disk.Request{add(), add(), add(), add(), add()},
			[]written{{8, 32, false}, {40, 8, false}},
			[]int{8, 16, 24, 32, 40}, nil,
		},
		"writes among them": {
			[]*disk.Request{write(8, 8), add(), write(24, 8)},
			[]written{{8, 24, false}},
			[]int{8, 16, 24}, nil,
		},
		"one that is longer than the limit goes alone": {
			[]*disk.Request{add(), write(16, 40), add()},
			[]written{{8, 8, false}, {16, 40, false}, {56, 8, false}},
			[]int{8, 16, 56}, nil,
		},
		"stable ones among themselves": {
			[]*disk.Request{add(), stable(add()), stable(add()), add()},
			[]written{{8, 8, false}, {16, 16, true}, {32, 8, false}},
			[]int{8, 16, 24, 32}, nil,
		},
		"a write elsewhere": {
			[]*disk.Request{add(), write(64, 8), add(), add()},
			[]written{{8, 8, false}, {16, 16, false}},
			[]int{8, -1, 16, 24}, map[int]error{1: zone.ErrUnaligned},
		},
		"nothing": {
			[]*disk.Request{add(), write(16, 0), write(17, 0), add()},
			[]written{{8, 8, false}, {16, 8, false}},
			[]int{8, 16, -1, 16}, map[int]error{2: zone.ErrUnaligned},
		},
		"an open": {
			[]*disk.Request{add(), disktest.NewRequest(disk.OpOpen, 256, nil), add()},
			[]written{{8, 8, false}, {16, 8, false}},
			[]int{8, -1, 16}, nil,
		},
		"a finish": {
			[]*disk.Request{add(), add(), disktest.NewRequest(disk.OpFinish, 256, nil), add()},
			[]written{{8, 16, false}},
			[]int{8, 16, -1, -1}, map[int]error{3: zone.ErrInvalid},
		},
		"a reset": {
			[]*disk.Request{add(), disktest.NewRequest(disk.OpReset, 256, nil), write(0, 8), add()},
			[]written{{8, 8, false}, {0, 16, false}},
			[]int{8, -1, 0, 8}, nil,
		},
		"a reset of all": {
			[]*disk.Request{add(), disktest.NewRequest(disk.OpResetAll, 0, nil), add(), add()},
			[]written{{8, 8, false}, {0, 16, false}},
			[]int{8, -1, 0, 8}, nil,
		},
		"the end of the zone": {
			[]*disk.Request{write(8, 72), add(), add(), add()},
			[]written{{8, 72, false}, {80, 16, false}},
			[]int{8, 80, 88, -1}, map[int]error{3: zone.ErrInvalid},
		},
		"too many vectors": {
			[]*disk.Request{vectors(500), vectors(500), vectors(24), vectors(1), vectors(1100), vectors(1)},
			[]written{{8, 24, false}, {32, 8, false}, {40, 8, false}, {48, 8, false}},
			[]int{8, 16, 24, 32, 40, 48}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newFakeDrive(t, disktest.Small, nil, nil)
			c, e := d.held(t, disktest.IsWritev)
			first := add()
			c.Submit(first)
			c.Submit(tt.line...)
			c.WantNothingDone("a write is in flight")
			for ended := map[*disk.Request]bool{}; len(ended) < 1+len(tt.line); {
				if r := c.Lane.Done(); r != nil {
					ended[r] = true
				} else {
					e.release()
				}
			}
			want := []written{{256, 8, false}}
			for _, w := range tt.sent {
				want = append(want, written{256 + w.at, w.sectors, w.stable})
			}
			if got := d.dev.writes(); !slices.Equal(got, want) {
				t.Errorf("the drive was sent %v, want %v", got, want)
			}
			for i, r := range tt.line {
				c.WantError(r.Err, tt.errs[i])
				if r.Err == nil && tt.at[i] >= 0 && r.AppendSector != 256+uint64(tt.at[i]) {
					t.Errorf("%d landed at %d, want %d", i, r.AppendSector-256, tt.at[i])
				}
			}
		})
	}
}

// Those that come in one batch go down as one at once, in each of their zones: that
// nothing was in flight there is no reason to send the first one alone.
func TestMergesBatches(t *testing.T) {
	d := newFakeDrive(t, disktest.Small, nil, nil)
	c := disktest.NewClient(t, d)
	data := disktest.Pattern('x', 4096)
	c.Submit(disktest.NewRequest(disk.OpAppend, 256, data), disktest.NewRequest(disk.OpAppend, 384, data), disktest.NewRequest(disk.OpWrite, 264, data),
		disktest.NewRequest(disk.OpAppend, 384, data), disktest.NewRequest(disk.OpAppend, 256, data))
	for range 5 {
		c.WantError(c.Wait().Err, nil)
	}
	if got := d.dev.writes(); !slices.Equal(got, []written{{256, 24, false}, {384, 16, false}}) {
		t.Errorf("the drive was sent %v", got)
	}
	c.WantZone(2, zone.ImpOpen, 24)
	c.WantZone(3, zone.ImpOpen, 16)
}

// Those that are made one can come from several queues: each is answered on its
// own, and holds what it wrote.
func TestMergesAcrossLanes(t *testing.T) {
	d := newFakeDrive(t, disktest.Small, nil, nil)
	c, e := d.held(t, disktest.IsWritev)
	other := disktest.NewClient(t, d)
	first, second := disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('a', 4096)), disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('b', 4096))
	third, fourth := disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('c', 4096)), disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('d', 4096))
	c.Submit(first)
	other.Submit(second)
	c.Submit(third)
	other.Submit(fourth)
	e.release()
	c.WantDone(first)
	other.WantDone(second, fourth)
	c.WantDone(third)
	if got := d.dev.writes(); !slices.Equal(got, []written{{256, 8, false}, {264, 24, false}}) {
		t.Errorf("the drive was sent %v", got)
	}
	want := slices.Concat(disktest.Pattern('a', 4096), disktest.Pattern('b', 4096), disktest.Pattern('c', 4096), disktest.Pattern('d', 4096))
	if !bytes.Equal(other.Read(256, 4*4096), want) {
		t.Error("the data is not what was appended")
	}
}

// Zones never wait for each other, whatever is in flight and in line in one.
func TestZonesDoNotWait(t *testing.T) {
	d := newFakeDrive(t, disktest.Small, nil, nil)
	c, e := d.held(t, func(op *engine.Op) bool { return op.Off == 256<<disk.SectorShift })
	busy := []*disk.Request{
		disktest.NewRequest(disk.OpWrite, 256, disktest.Pattern('a', 4096)), disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('b', 4096)),
		disktest.NewRequest(disk.OpFinish, 256, nil), disktest.NewRequest(disk.OpReset, 256, nil),
	}
	c.Submit(busy...)
	for _, client := range []*disktest.Client{c, disktest.NewClient(t, d)} {
		client.WantError(client.Write(384, disktest.Pattern('o', 4096)), nil)
		client.WantError(client.ZoneOp(disk.OpFinish, 384), nil)
		client.WantError(client.ZoneOp(disk.OpReset, 384), nil)
		client.WantError(client.Write(130, disktest.Pattern('o', 4096)), nil)
		client.WantError(client.Flush(), nil)
		client.Read(300, 4096)
	}
	if len(e.kept) != 1 {
		t.Errorf("%d I/Os of a zone are in flight", len(e.kept))
	}
	for n := 0; n < len(busy); {
		if r := c.Lane.Done(); r == nil {
			e.release()
		} else if n++; r.Err != nil {
			t.Error(r.Err)
		}
	}
	c.WantZone(2, zone.Empty, 0)
}
