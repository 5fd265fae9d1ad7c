package drive

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/zonemodel"
)

// Zone management waits for its zone's write, and holds back the next ones.
func TestManagementTakesTurns(t *testing.T) {
	for _, op := range []disk.Op{disk.OpOpen, disk.OpClose, disk.OpFinish, disk.OpReset, disk.OpResetAll} {
		d := newFakeDrive(t, disktest.Small, nil, nil)
		c, e := d.held(t, func(op *engine.Op) bool { return op.Code != engine.Readv })
		before, after := disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('a', 4096)), disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('b', 4096))
		m := disktest.NewRequest(op, 256, nil)
		c.Submit(before, m, after)
		for _, r := range []*disk.Request{before, m, after} {
			c.WantNothingDone("it has not been carried out")
			if len(e.kept) == 1 {
				e.release()
			} else if op != disk.OpFinish || r != after || len(e.kept) > 0 {
				t.Fatalf("%v: %d I/Os of a zone are in flight", op, len(e.kept))
			}
			if r == m && op == disk.OpFinish {
				c.WantDone(m, after)
				break
			}
			c.WantDone(r)
			c.Lane.Start()
		}
		want := map[disk.Op]written{disk.OpOpen: {at: 8, sectors: 16}, disk.OpClose: {at: 8, sectors: 16}, disk.OpReset: {0, 8, false}, disk.OpResetAll: {0, 8, false}}[op]
		if op == disk.OpFinish {
			c.WantError(after.Err, zone.ErrInvalid)
			c.WantZone(2, zone.Full, 0)
			continue
		}
		c.WantError(after.Err, nil)
		if after.AppendSector != 256+want.at {
			t.Errorf("%v: what came behind it landed at %d", op, after.AppendSector-256)
		}
		c.WantZone(2, map[disk.Op]zone.State{disk.OpOpen: zone.ExpOpen}[op]|zone.ImpOpen, want.at+8)
	}
}

// Management that fails leaves the zone as the drive has it, and who stood in
// line behind it finds that.
func TestManagementFails(t *testing.T) {
	for op, code := range zoneCodes {
		if code == 0 {
			continue
		}
		d := newFakeDrive(t, disktest.Small, nil, nil)
		c, e := d.held(t, disktest.IsWritev)
		first, m, after := disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('a', 4096)), disktest.NewRequest(disk.Op(op), 256, nil), disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('b', 4096))
		c.Submit(first, m, after)
		d.dev.failing(code, 0, unix.EIO)
		e.release()
		c.WantDone(first, m)
		c.Lane.Start()
		e.release()
		c.WantDone(after)
		c.WantError(m.Err, disk.ErrIO)
		c.WantError(after.Err, nil)
		c.WantZone(2, zone.ImpOpen, 16)

		d.dev.failing(code, 0, unix.EIO)
		d.dev.set(2, zone.ReadOnly)
		c.WantError(c.ZoneOp(disk.Op(op), 256), zone.ErrInvalid)
		c.WantError(c.ZoneOp(disk.Op(op), 256), zone.ErrInvalid)
		c.WantZone(2, zone.ReadOnly, 16)
	}
}

// An open zone without data is empty when it is closed, whatever the drive
// thinks of closing it; one that the drive has closed empty stays so.
func TestClosesEmptyZones(t *testing.T) {
	for _, stable := range []bool{false, true} {
		d := newFakeDrive(t, disktest.Small, nil, nil)
		c := disktest.NewClient(t, d)
		c.WantError(c.ZoneOp(disk.OpOpen, 256), nil)
		r := disktest.NewRequest(disk.OpClose, 256, nil)
		r.Stable = stable
		c.WantError(c.Do(r), nil)
		c.WantZone(2, zone.Empty, 0)
		if d.dev.count(engine.ZoneReset) != 1 || d.dev.count(engine.ZoneClose) != 0 {
			t.Errorf("it was not reset")
		}
		c.WantError(c.Do(r), zone.ErrInvalid)

		d = newFakeDrive(t, disktest.Small, map[int]zone.State{2: zone.Closed}, nil)
		c = disktest.NewClient(t, d)
		c.WantError(c.Do(r), nil)
		c.WantZone(2, zone.Closed, 0)
		c.WantError(c.Write(256, disktest.Pattern('a', 512)), nil)
	}
}

// A reset of all zones passes over what is out of service, and is one command
// where all of the drive is the disk's and in service.
func TestResetAll(t *testing.T) {
	const whole = small15
	type run struct{ at, sectors uint64 }
	for name, tt := range map[string]struct {
		states map[int]zone.State
		window *disk.Window
		fill   []int // zones of the drive that hold something
		want   []run // sectors of the drive
	}{
		"nothing to do":       {nil, nil, nil, nil},
		"all of the drive":    {nil, nil, []int{3}, []run{{0, whole}}},
		"not all in service":  {map[int]zone.State{5: zone.ReadOnly, 9: zone.Offline}, nil, []int{3, 4, 5, 6, 8, 15}, []run{{384, 256}, {768, 128}, {1024, 128}, {1920, 64}}},
		"a window":            {nil, &disk.Window{First: 3, Last: 9}, []int{2, 3, 5, 6, 9, 10}, []run{{384, 128}, {640, 256}, {1152, 128}}},
		"conventional ones":   {nil, &disk.Window{First: 0, Last: 3}, []int{0, 1, 2, 3, 4}, []run{{256, 256}}},
		"the smaller last":    {nil, &disk.Window{First: 14, Last: 15}, []int{13, 15}, []run{{1920, 64}}},
		"only what has none":  {nil, &disk.Window{First: 0, Last: 1}, []int{0, 1, 2}, nil},
		"an offline first":    {map[int]zone.State{0: zone.Offline}, nil, []int{2}, []run{{256, 128}}},
		"every other is full": {map[int]zone.State{15: zone.ReadOnly}, nil, []int{2, 4, 6}, []run{{256, 128}, {512, 128}, {768, 128}}},
	} {
		t.Run(name, func(t *testing.T) {
			g := disktest.Small
			g.MaxOpen, g.MaxActive = 0, 0
			d := newFakeDrive(t, g, tt.states, tt.window)
			for _, i := range tt.fill {
				d.dev.m.Do(zonemodel.Request{Type: zonemodel.TypeOut, Sector: uint64(i) * 128, Data: disktest.Pattern('a', 512)})
			}
			if err := d.refresh(); err != nil {
				t.Fatal(err)
			}
			c := disktest.NewClient(t, d)
			c.WantError(c.ZoneOp(disk.OpResetAll, 0), nil)
			var got []run
			for i := range d.dev.ops {
				if op := &d.dev.ops[i]; op.Code == engine.ZoneReset {
					got = append(got, run{uint64(op.Off) >> disk.SectorShift, uint64(op.Len) >> disk.SectorShift})
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("reset %v, want %v", got, tt.want)
			}
			for i := range d.zones {
				n := int(d.first/128) + i
				state := zone.Empty
				if s, ok := tt.states[n]; ok {
					state = s
				} else if n < 2 {
					state = zone.NotWP
				}
				d.wantState(c.T, i, state, 0)
			}
			for _, i := range tt.fill { // outside of the window nothing happens
				_, z := d.dev.m.ZoneOf(uint64(i) * 128)
				if inside := z.Start >= d.first && z.Start < d.first+d.info.CapacitySectors; !inside && i >= 2 && z.WP != z.Start+1 {
					t.Errorf("zone %d of the drive was reset", i)
				}
			}
		})
	}
}

// small15 is the sectors of a drive of geometry small.
const small15 = 15*128 + 64

// A reset-all that fails says so, leaves what the drive says, and lets all zones
// go. Where a zone went out of service under it, it goes on with the others.
func TestResetAllFails(t *testing.T) {
	for name, w := range map[string]*disk.Window{"drive": nil, "window": {First: 1, Last: 15}} {
		t.Run(name, func(t *testing.T) {
			d := newFakeDrive(t, disktest.Small, nil, w)
			c := disktest.NewClient(t, d)
			base := 256 - d.first
			fill := func() {
				for i := range uint64(3) {
					c.WantError(c.Write(base+i*128, disktest.Pattern('a', 512)), nil)
				}
			}
			fill()
			d.dev.failing(engine.ZoneReset, 0, unix.EIO)
			c.WantError(c.ZoneOp(disk.OpResetAll, 0), disk.ErrIO)
			first := int(base / 128)
			c.WantZone(first, zone.ImpOpen, 1)
			c.WantError(c.ZoneOp(disk.OpResetAll, 0), nil)
			c.WantZone(first, zone.Empty, 0)

			fill()
			d.dev.fault = func(op *engine.Op) (int64, error) {
				_, z := d.dev.m.ZoneOf(384)
				if op.Code == engine.ZoneReset && z.State == zonemodel.ImpOpen {
					d.dev.m.SetState(3, zonemodel.ReadOnly)
					return 0, unix.EIO
				}
				return 0, nil
			}
			c.WantError(c.ZoneOp(disk.OpResetAll, 0), nil)
			c.WantZone(first, zone.Empty, 0)
			c.WantZone(first+1, zone.ReadOnly, 1)
			c.WantZone(first+2, zone.Empty, 0)
			c.WantError(c.Write(base, disktest.Pattern('b', 512)), nil)
			c.WantError(c.Write(base+128, disktest.Pattern('b', 512)), zone.ErrInvalid)
			if !bytes.Equal(c.Read(base+128, 512), disktest.Pattern('a', 512)) {
				t.Error("a read-only zone cannot be read")
			}

			r := disktest.NewRequest(disk.OpResetAll, 0, nil)
			r.Stable = true
			c.WantError(c.Do(r), nil)
			d.dev.gone = true
			c.WantError(c.Do(r), disk.ErrIO)
			d.dev.gone = false
			c.WantError(c.Write(base+256, disktest.Pattern('b', 512)), nil)
		})
	}
}

// A zone that goes out of service while it is served: what its requests get, and
// the report.
func TestZonesFail(t *testing.T) {
	for _, s := range []zone.State{zone.ReadOnly, zone.Offline} {
		for _, reported := range []bool{false, true} {
			d := newFakeDrive(t, disktest.Small, nil, nil)
			c := disktest.NewClient(t, d)
			for _, i := range []int{2, 3, 4, 5} {
				c.WantError(c.Write(uint64(i)*128, disktest.Pattern('a', 8*512)), nil)
				c.WantError(c.ZoneOp(disk.OpClose, uint64(i)*128), nil)
			}
			for i := 2; i < 6; i++ {
				d.dev.set(i, s)
				if reported {
					c.WantZone(i, s, map[zone.State]uint64{zone.ReadOnly: 8}[s])
				}
			}
			readable := error(nil)
			if s == zone.Offline {
				readable = zone.ErrInvalid
			}
			c.WantError(c.Do(disktest.NewRequest(disk.OpRead, 256, make([]byte, 512))), readable)
			c.WantError(c.Write(3*128+8, disktest.Pattern('b', 512)), zone.ErrInvalid)
			_, err := c.Append(4*128, disktest.Pattern('b', 512))
			c.WantError(err, zone.ErrInvalid)
			c.WantError(c.ZoneOp(disk.OpFinish, 5*128), zone.ErrInvalid)
			for i := 2; i < 6; i++ {
				c.WantError(c.Write(uint64(i)*128+8, disktest.Pattern('b', 512)), zone.ErrInvalid)
				c.WantError(c.ZoneOp(disk.OpOpen, uint64(i)*128), zone.ErrInvalid)
				c.WantError(c.Do(disktest.NewRequest(disk.OpRead, uint64(i)*128, make([]byte, 512))), readable)
				c.WantZone(i, s, map[zone.State]uint64{zone.ReadOnly: 8}[s])
			}
			// And comes back, empty: a report shows it, and then it can be used.
			d.dev.set(3, zone.Empty)
			c.WantZone(3, zone.Empty, 0)
			c.WantError(c.Write(3*128, disktest.Pattern('c', 512)), nil)
		}
	}
}

// Read-only zones can be read: what the drive fails to read there is a medium error,
// and no request that the zone's state does not allow.
func TestReadFailsInReadOnlyZone(t *testing.T) {
	for s, want := range map[zone.State]error{zone.ReadOnly: disk.ErrIO, zone.Offline: zone.ErrInvalid, zone.Closed: disk.ErrIO} {
		for _, reported := range []bool{false, true} {
			d := newFakeDrive(t, disktest.Small, nil, nil)
			c := disktest.NewClient(t, d)
			c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
			c.WantError(c.Write(384, disktest.Pattern('a', 4096)), nil)
			d.dev.set(2, s)
			if reported {
				c.WantZone(2, s, map[zone.State]uint64{zone.ReadOnly: 8, zone.Closed: 8}[s])
			}
			d.dev.failing(engine.Readv, 0, unix.EIO)
			err := c.Do(disktest.NewRequest(disk.OpRead, 256, make([]byte, 512)))
			c.WantError(err, want)
			if errors.Is(err, zone.ErrInvalid) && s != zone.Offline {
				t.Errorf("a read in a zone that is %v: %v", s, err)
			}
		}
	}
}

// Of a read-only zone all that can have been written is read from the drive, and
// nothing above: a zone reads as zeroes there, and not every drive lets one.
func TestReadsReadOnlyZoneToItsCapacity(t *testing.T) {
	d := newFakeDrive(t, disktest.Small, nil, nil)
	c := disktest.NewClient(t, d)
	for i := range uint64(3) {
		c.WantError(c.Write(256+32*i, disktest.Pattern('a', 32*512)), nil)
	}
	d.dev.set(2, zone.ReadOnly)
	c.WantZone(2, zone.ReadOnly, 96)
	d.dev.ops = nil
	if got := c.Read(256+88, 16*512); !bytes.Equal(got, append(disktest.Pattern('a', 8*512), make([]byte, 8*512)...)) {
		t.Error("across the capacity something else is read")
	}
	if got := c.Read(256+96, 32*512); !bytes.Equal(got, make([]byte, 32*512)) {
		t.Error("above the capacity there are no zeroes")
	}
	if ops := d.dev.ops; len(ops) != 1 || ops[0].Off != (256+88)<<disk.SectorShift || ops[0].Len != 8<<disk.SectorShift {
		t.Errorf("the drive was asked for %+v", ops)
	}
	// Conventional zones have no capacity, and reads go over several of them.
	d.dev.set(0, zone.ReadOnly)
	c.WantZone(0, zone.ReadOnly, 0)
	c.WantError(c.Write(128, disktest.Pattern('c', 512)), nil)
	if got := c.Read(127, 1024); !bytes.Equal(got[512:], disktest.Pattern('c', 512)) {
		t.Error("behind a read-only conventional zone something else is read")
	}
}

// A write in flight when a report finds its zone out of service.
func TestZoneFailsUnderWrite(t *testing.T) {
	d := newFakeDrive(t, disktest.Small, nil, nil)
	c, e := d.held(t, disktest.IsWritev)
	r, behind := disktest.NewRequest(disk.OpWrite, 256, disktest.Pattern('a', 512)), disktest.NewRequest(disk.OpAppend, 256, disktest.Pattern('a', 512))
	c.Submit(r, behind)
	d.dev.set(2, zone.ReadOnly)
	c.WantZone(2, zone.ReadOnly, 0)
	e.release()
	for range 2 {
		c.WantError(c.Wait().Err, zone.ErrInvalid)
	}
}
