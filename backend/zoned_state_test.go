package backend

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

var targets = []ZoneTarget{ToReadOnly, ToOffline, ToFull, ToEmpty, ToWritable}

func set(t disktest.TB, d disk.Disk, to ZoneTarget, zones ...int) {
	t.Helper()
	if err := SetZoneStates(d, zones, to); err != nil {
		t.Fatal(err)
	}
}

// Every zone can be put from every state into every state that its type has,
// with what it holds, and back; guests meet the new state, and it is durable.
func TestSetZoneStates(t *testing.T) {
	// Zone 3 is read-only with data, 4 offline with data, and so on; the last is
	// smaller. Zone 1 is conventional.
	prepare := func(t *testing.T) (string, *disktest.Client) {
		g := disktest.Small
		g.MaxOpen, g.MaxActive = 0, 0
		path := imagetest.NewFast(t, g)
		d := openDisk(t, path)
		c := disktest.NewClient(t, d)
		data := disktest.Pattern('d', 8*512)
		for _, i := range []uint64{3, 4, 5, 7, 8} {
			c.WantError(c.Write(i*128, data), nil)
		}
		c.WantError(c.Write(128, data), nil)
		c.WantError(c.ZoneOp(disk.OpFinish, 7*128), nil)
		c.WantError(c.Write(9*128, disktest.Pattern('d', 96*512)), nil)
		c.WantError(c.ZoneOp(disk.OpClose, 8*128), nil)
		set(t, d, ToReadOnly, 3)
		set(t, d, ToOffline, 4)
		c.WantError(c.ZoneOp(disk.OpOpen, 6*128), nil)
		return path, c
	}
	after := map[ZoneTarget]func(written uint64, before zone.State) zone.State{
		ToReadOnly: func(uint64, zone.State) zone.State { return zone.ReadOnly },
		ToOffline:  func(uint64, zone.State) zone.State { return zone.Offline },
		ToFull:     func(uint64, zone.State) zone.State { return zone.Full },
		ToEmpty:    func(uint64, zone.State) zone.State { return zone.Empty },
		ToWritable: func(written uint64, before zone.State) zone.State {
			switch {
			case before != zone.ReadOnly && before != zone.Offline:
				return before
			case written == 0:
				return zone.Empty
			}
			return zone.Closed
		},
	}
	states := map[int]zone.State{2: zone.Empty, 3: zone.ReadOnly, 4: zone.Offline, 5: zone.ImpOpen, 6: zone.ExpOpen, 7: zone.Full, 8: zone.Closed, 9: zone.Full, 15: zone.Empty}
	written := map[int]uint64{3: 8, 4: 8, 5: 8, 7: 8, 8: 8, 9: 96}
	for _, to := range targets {
		path, c := prepare(t)
		for i, before := range states {
			set(t, c.Disk, to, i)
			state, w := after[to](written[i], before), written[i]
			if to == ToEmpty {
				w = 0
			}
			if state == zone.Offline {
				c.WantZone(i, zone.Offline, 0)
				c.WantError(c.Do(disktest.NewRequest(disk.OpRead, uint64(i)*128, make([]byte, 512))), zone.ErrInvalid)
				continue
			}
			c.WantZone(i, state, w)
			want := append(disktest.Pattern('d', int(w)*512), make([]byte, int(64-min(w, 64))*512)...)
			if got := c.Read(uint64(i)*128, 64*512); !bytes.Equal(got, want[:64*512]) {
				t.Errorf("zone %d, %v to %v, reads as something else", i, before, to)
			}
			err := c.Write(uint64(i)*128+w, disktest.Pattern('w', 512))
			if state == zone.ReadOnly || state == zone.Full {
				c.WantError(err, zone.ErrInvalid)
			} else {
				c.WantError(err, nil)
				set(t, c.Disk, ToWritable, i) // it is
				c.WantZone(i, c.Disk.ReportZone(i).State, w+1)
			}
		}
		for i := range c.Disk.Info().Zoned.Zones {
			if _, touched := states[i]; !touched && i >= 2 {
				c.WantZone(i, zone.Empty, 0)
			}
		}
		imagetest.CloseDisk(t, c.Disk, path)
	}
}

// Conventional zones have three of the states.
func TestSetConventionalZones(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(120, disktest.Pattern('a', 16*512)), nil)
	set(t, d, ToReadOnly, 1)
	c.WantError(c.Write(0, disktest.Pattern('b', 512)), nil)
	c.WantError(c.Write(120, disktest.Pattern('b', 16*512)), zone.ErrInvalid) // a part of it
	if got := c.Read(120, 16*512); !bytes.Equal(got, disktest.Pattern('a', 16*512)) {
		t.Error("a read-only zone has changed, or the part of the write before it has landed")
	}
	set(t, d, ToOffline, 1)
	c.WantError(c.Do(disktest.NewRequest(disk.OpRead, 120, make([]byte, 16*512))), zone.ErrInvalid)
	for _, to := range []ZoneTarget{ToFull, ToEmpty} {
		if err := SetZoneStates(d, []int{1}, to); err == nil || !strings.Contains(err.Error(), "zone 1 cannot be made "+to.String()+": it is conventional") {
			t.Errorf("%v: %v", to, err)
		}
	}
	imagetest.CloseDisk(t, d, path)
	d = openDisk(t, path)
	c = disktest.NewClient(t, d)
	if s := d.ReportZone(1).State; s != zone.Offline {
		t.Errorf("the zone comes back %v", s)
	}
	set(t, d, ToWritable, 0, 1)
	c.WantError(c.Write(120, disktest.Pattern('b', 16*512)), nil)
	imagetest.CloseDisk(t, d, path)
}

// What is answered is durable: a kill and a power cut find it, and nothing beside
// it.
func TestSetZoneStatesIsDurable(t *testing.T) {
	for n := range 2 * len(targets) {
		to, cut := targets[n/2], n%2 == 1
		path := imagetest.NewFast(t, disktest.Small)
		d, fs := openFaulty(t, path)
		c := disktest.NewClient(t, d)
		c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
		c.WantError(c.Write(384, disktest.Pattern('b', 4096)), nil)
		set(t, d, ToReadOnly, 3)
		set(t, d, to, 2, 3)
		want := []zone.Descriptor{d.ReportZone(2), d.ReportZone(3)}
		kill(t, d, fs)
		if cut {
			imagetest.CutPower(t, path)
		}
		d = openDisk(t, path).(*zoned)
		for i, w := range want {
			if cut && w.State.IsOpen() {
				w.State = zone.Closed // as after any power cut
			}
			if got := d.ReportZone(2 + i); got != w {
				t.Errorf("%v: zone %d comes back as %+v, want %+v", to, 2+i, got, w)
			}
		}
		imagetest.CloseDisk(t, d, path)
	}
}

// A zone changes when the writes in flight have landed; what waits behind that
// meets the new state, and no other zone waits.
func TestSetZoneStateWaitsForWrites(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d := openDisk(t, path)
	c, e := disktest.HeldClient(t, d, disktest.IsWritev)
	rs := c.AppendEach(e, 256, 3)
	done := make(chan error)
	go func() { done <- SetZoneStates(d, []int{2}, ToReadOnly) }()
	z := &d.(*zoned).zones[2]
	for waits := false; !waits; runtime.Gosched() {
		z.mu.Lock()
		waits = z.wait.Head != nil
		z.mu.Unlock()
	}
	late := disktest.NewRequest(disk.OpWrite, 256+24, disktest.Pattern('x', 512))
	reset := disktest.NewRequest(disk.OpReset, 256, nil)
	c.Submit(late, reset)
	c.WantError(c.WriteUnheld(e, 384, disktest.Pattern('y', 512)), nil)
	c.WantZone(2, zone.Empty, 0)
	c.ReleaseAll(e)
	for range 5 {
		r := c.Wait()
		if r == late || r == reset {
			c.WantError(r.Err, zone.ErrInvalid)
		} else {
			c.WantError(r.Err, nil)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	c.WantZone(2, zone.ReadOnly, 24)
	if len(rs) != 3 || !bytes.Equal(c.Read(256, 4096), disktest.Pattern('a', 4096)) {
		t.Error("what was in flight has not landed")
	}
	e.Hold = nil
	imagetest.CloseDisk(t, d, path)
}

// A zone comes back within the limits only, and a read-only disk stays as it is.
func TestSetZoneStateRefused(t *testing.T) {
	g := disktest.Small
	g.MaxOpen, g.MaxActive = 1, 1
	path := imagetest.NewFast(t, g)
	d := openDisk(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('a', 512)), nil)
	set(t, d, ToReadOnly, 2) // gives its place up
	c.WantError(c.Write(384, disktest.Pattern('a', 512)), nil)
	if err := SetZoneStates(d, []int{5, 2, 6}, ToWritable); !errors.Is(err, zone.ErrActiveLimit) || err.Error() != "zone 2 cannot be made writable: too many active zones" {
		t.Error(err)
	}
	c.WantZone(2, zone.ReadOnly, 1)
	set(t, d, ToOffline, 3)
	set(t, d, ToWritable, 2)
	c.WantZone(2, zone.Closed, 1)
	if err := SetZoneStates(d, []int{3, 16}, ToFull); err == nil || !strings.Contains(err.Error(), "zone 16") {
		t.Error(err)
	}
	c.WantZone(3, zone.Full, 0) // the one before
	imagetest.CloseDisk(t, d, path)

	readOnly, err := Open(path, disk.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := SetZoneStates(readOnly, []int{3}, ToEmpty); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Error(err)
	}
	plain := openDisk(t, newPlain(t, 1<<20))
	if err := SetZoneStates(plain, []int{0}, ToEmpty); err == nil || !strings.Contains(err.Error(), "no zones") {
		t.Error(err)
	}
	if err := errors.Join(readOnly.Close(), plain.Close()); err != nil {
		t.Error(err)
	}
}

// Old data in a zone that was reset and then went offline does not outlive a
// kill: it could show when the zone comes back.
func TestOfflineZoneIsClearedToo(t *testing.T) {
	path := imagetest.New(t, disktest.Small)
	d, fs := openFaulty(t, path)
	c := disktest.NewClient(t, d)
	c.WantError(c.Write(256, disktest.Pattern('o', 96*512)), nil)
	c.WantError(c.Flush(), nil)
	fs.refuse(failing("wipe", errDead))
	c.WantError(c.ZoneOp(disk.OpReset, 256), nil)
	set(t, d, ToOffline, 2)
	kill(t, d, fs)
	d = openDisk(t, path).(*zoned)
	set(t, d, ToWritable, 2)
	if !bytes.Equal(imagetest.RawZone(t, path, 2), make([]byte, 128*512)) {
		t.Error("old data stands in a zone that is empty")
	}
	imagetest.CloseDisk(t, d, path)
}

// Zones change their states under load, and the disk stays what the
// specification allows: the counts hold, and the image is whole.
func TestSetZoneStatesUnderLoad(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	d := openDisk(t, path)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for w := range 3 {
		c := disktest.NewClientOn(t, d, func(wake func()) (engine.Engine, error) { return engine.NewThreads(1, wake), nil })
		wg.Go(func() {
			for n := uint64(w); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				start := 256 + n%4*128
				switch n % 7 {
				case 0:
					_ = c.ZoneOp(disk.OpReset, start)
				case 1:
					_ = c.ZoneOp(disk.OpFinish, start)
				default:
					if _, err := c.Append(start, disktest.Pattern('x', 4096)); errors.Is(err, disk.ErrIO) {
						t.Error(err)
					}
				}
			}
		})
	}
	for n := range 300 {
		err := SetZoneStates(d, []int{2 + n%4, 2 + (n+1)%4}, targets[n%len(targets)])
		if err != nil && !errors.Is(err, zone.ErrActiveLimit) {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
	imagetest.CloseDisk(t, d, path)
	imagetest.CloseDisk(t, openDisk(t, path), path)
}

// A new image starts as it was asked to, with its faults, each time it is
// opened; a copy of the file does too.
func TestImageStartsOtherwise(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.zvh")
	faults := make([]disk.Fault, len(faultLines))
	for i, c := range faultLines {
		faults[i] = c.OpFault
		if faults[i].Place == disk.InSectors {
			faults[i].Last = faults[i].First
		}
	}
	s := image.Start{ReadOnly: []int{0, 3}, Offline: []int{1, 4}, Full: []int{5, 15}, Faults: faults}
	if err := image.CreateWith(path, disktest.Small, s); err != nil {
		t.Fatal(err)
	}
	imagetest.WantClean(t, path)
	for range 2 {
		d := openDisk(t, path)
		for i := range d.Info().Zoned.Zones {
			want, ok := map[int]zone.State{0: zone.ReadOnly, 3: zone.ReadOnly, 1: zone.Offline, 4: zone.Offline, 5: zone.Full, 15: zone.Full}[i]
			if !ok {
				want = zone.Empty
			}
			if got := d.ReportZone(i); got.State != want {
				t.Errorf("zone %d is %v, want %v", i, got.State, want)
			}
		}
		list := d.Faults().List()
		if len(list) != len(faults) {
			t.Fatalf("%d faults, want %d", len(list), len(faults))
		}
		for i, f := range list {
			if f.Fault != faults[i] || f.Struck != 0 {
				t.Errorf("fault %d is %v, want %v", i, f.Fault, faults[i])
			}
		}
		d.Faults().ClearAll() // for this time
		c := disktest.NewClient(t, d)
		c.WantError(c.Do(disktest.NewRequest(disk.OpRead, 5*128, make([]byte, 512))), nil)
		if !bytes.Equal(c.Read(5*128, 96*512), make([]byte, 96*512)) {
			t.Error("a zone that started full is not full of zeroes")
		}
		imagetest.CloseDisk(t, d, path)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		path += "-copy"
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for want, s := range map[string]image.Start{
		"zone 16 cannot start full":                         {Full: []int{16}},
		"zone -1 cannot start offline":                      {Offline: []int{-1}},
		"zone 0 cannot start full: it is conventional":      {Full: []int{0}},
		"zone 3 cannot start both read-only and offline":    {ReadOnly: []int{3}, Offline: []int{3}},
		"zone 3 cannot start both full and full":            {Full: []int{3, 3}},
		`fault "write,zone=16": zone 16 is beyond the last`: {Faults: []disk.Fault{{Kind: disk.FaultWrite, Place: disk.InZones, First: 16, Last: 16}}},
		"too many to stand in the image":                    {Faults: make([]disk.Fault, 2000)},
	} {
		for i := range s.Faults {
			if s.Faults[i].Kind == 0 {
				s.Faults[i].Kind = disk.FaultRead
			}
		}
		err := image.CreateWith(filepath.Join(t.TempDir(), "x"), disktest.Small, s)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestParseZones(t *testing.T) {
	for text, want := range map[string][]int{
		"3,5-7": {3, 5, 6, 7}, "0": {0}, "all": {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, "7,5-7,0-1,6": {0, 1, 5, 6, 7},
	} {
		got, err := zone.ParseSet(text, 10)
		if err != nil || len(got) != len(want) {
			t.Errorf("%q: %v, %v", text, got, err)
			continue
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("%q: %v", text, got)
			}
		}
	}
	for _, text := range []string{"", ",", "3,", "a", "-", "3-", "-3", "7-5", "10", "0-10", "all,3", "99999999999999999999", "4194304"} {
		if got, err := zone.ParseSet(text, 10); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	// Not the time and memory that the words ask for, but the disk's.
	long := strings.TrimSuffix(strings.Repeat("0-4194303,", 6000), ",")
	if got, err := zone.ParseSet(long, zone.MaxZones); err != nil || len(got) != zone.MaxZones {
		t.Errorf("%d zones, %v", len(got), err)
	}
}
