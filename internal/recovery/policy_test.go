package recovery

import (
	"errors"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/guestmem"
	"github.com/zvhost/zvhost/virtio/transport"
)

// A fakeDisk has what a Policy asks: two zones, the first of them a conventional one.
type fakeDisk struct {
	disk.Disk
	info disk.Info
}

func (d fakeDisk) Info() disk.Info { return d.info }
func (d fakeDisk) ReportZone(i int) zone.Descriptor {
	return zone.Descriptor{Type: []zone.Type{zone.Conventional, zone.SequentialWriteRequired}[i]}
}

var zonedDisk = fakeDisk{info: disk.Info{Zoned: &disk.ZonedInfo{Zones: 2, ZoneSectors: 128}}}

// roundRing is a split ring at its beginning, whose first used entry a device has used.
func roundRing(t *testing.T) transport.Ring {
	t.Helper()
	mem, err := guestmem.New([]*guestmem.Region{guestmem.Heap(guestmem.RegionDesc{Size: 4096})})
	if err != nil {
		t.Fatal(err)
	}
	b, err := mem.UserBytes(0, 4096)
	if err != nil {
		t.Fatal(err)
	}
	b[4] = 1
	return transport.Ring{Size: 8, Mem: mem, Reconnected: true}
}

// The first table of docs/restart.md, "What may be carried out again".
func TestRings(t *testing.T) {
	begin, middle, round := transport.Ring{Size: 8}, transport.Ring{Size: 8, Base: 5}, roundRing(t)
	packed, packedMiddle := transport.Ring{Size: 8, Base: PackedStart, Features: virtio.FeatureRingPacked}, transport.Ring{Size: 8, Features: virtio.FeatureRingPacked}
	for name, c := range map[string]struct {
		plain   bool
		unclean bool
		note    Note
		ring    transport.Ring
		want    bool
	}{
		"closed, no note, in the middle":      {ring: middle},
		"in use, no note, in the middle":      {unclean: true, ring: middle, want: true},
		"in use, no note, gone round":         {unclean: true, ring: round, want: true},
		"in use, no note, at its beginning":   {unclean: true, ring: begin},
		"in use, settled, in the middle":      {unclean: true, note: NoteSettled, ring: middle},
		"closed, settled, in the middle":      {note: NoteSettled, ring: middle},
		"closed, may have run, in the middle": {note: NoteMayHaveRun, ring: middle, want: true},
		"closed, may have run, gone round":    {note: NoteMayHaveRun, ring: round, want: true},
		"closed, may have run, at its start":  {note: NoteMayHaveRun, ring: begin},
		"packed, in use, at its beginning":    {unclean: true, ring: packed},
		"packed, in use, in the middle":       {unclean: true, ring: packedMiddle, want: true},
		"ordinary disk, may have run":         {plain: true, note: NoteMayHaveRun, ring: middle},
		"no zvhost's note":                    {note: 77, ring: middle},
	} {
		rec, err := inflight.New(1, 8)
		if err != nil {
			t.Fatal(err)
		}
		d := zonedDisk
		if c.plain {
			d = fakeDisk{}
		}
		p := &Policy{disk: d, rings: []Ring{{unclean: c.unclean}}}
		if c.note == NoteNone {
			if got := p.MayHaveRun(0, &c.ring); got != c.want {
				t.Errorf("%s, without a record: %v", name, got)
			}
		}
		c.ring.Record = rec.Ring(0)
		c.ring.Record.SetNote(uint64(c.note))
		if got := p.MayHaveRun(0, &c.ring); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
		if err := rec.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The second one.
func TestVerdicts(t *testing.T) {
	for name, c := range map[string]struct {
		op     disk.Op
		sector uint64
		refuse bool
	}{
		"read":                         {op: disk.OpRead, sector: 128},
		"flush":                        {op: disk.OpFlush},
		"report":                       {op: disk.OpReport},
		"write to a conventional zone": {op: disk.OpWrite},
		"write to a sequential zone":   {op: disk.OpWrite, sector: 128, refuse: true},
		"write behind the last zone":   {op: disk.OpWrite, sector: 1 << 40, refuse: true},
		"append":                       {op: disk.OpAppend, sector: 128, refuse: true},
		"reset":                        {op: disk.OpReset, sector: 128, refuse: true},
		"reset of all zones":           {op: disk.OpResetAll, refuse: true},
	} {
		for _, mayHaveRun := range []bool{false, true} {
			g := Ring{policy: &Policy{disk: zonedDisk}, mayHaveRun: mayHaveRun}
			waiting, inFlight := Submit, Resume
			if mayHaveRun && c.refuse {
				waiting, inFlight = Refuse, Refuse
			}
			for i, want := range []Verdict{waiting, inFlight} {
				r := &virtio.BlkRequest{}
				r.Op, r.Sector = c.op, c.sector
				if got := []func(*virtio.BlkRequest) Verdict{g.Waiting, g.InFlight}[i](r); got != want || errors.Is(r.Err, disk.ErrIO) != (want == Refuse) {
					t.Errorf("%s: verdict %d (%v), want %d", name, got, r.Err, want)
				}
			}
			if g.Settle(); g.MayHaveRun() || g.Waiting(&virtio.BlkRequest{Request: disk.Request{Op: disk.OpReset}}) != Submit {
				t.Errorf("%s: a later request is refused as well", name)
			}
		}
	}
}
