package device

import (
	"errors"
	"testing"

	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

const cacheFeatures = driver.BlkFlush | driver.BlkConfigWCE

// stored fails the test unless a write is made stable before it is answered, or is not,
// as want says; and unless the field writeback says the same. What a zoned image does for
// a stable write does not pass the gate: backend's TestStable looks at that.
func (g *guest) stored(gate *gate, want bool) {
	g.r.t.Helper()
	q, sector := g.Queue(0), uint64(0)
	if n := uint64(g.Config.ZoneSectors); n != 0 {
		sector = n
		g.want("read", driver.StatusOK, q.Read(make([]byte, 4096), 0)) // nothing is in doubt behind it
		g.want("reset", driver.StatusOK, q.Zone(driver.TypeZoneReset, sector))
	}
	was := gate.stable.Load()
	g.want("write", driver.StatusOK, q.Write(pattern(4096, 1), sector))
	if got := gate.stable.Load() > was; got != want && sector == 0 || g.r.dev.WriteThrough() != want {
		g.r.t.Errorf("a write is stored before it is answered: %v\n%s", got, g.r.book)
	}
	g.shows(want)
}

// shows checks the field writeback: whether it says write-through.
func (g *guest) shows(through bool) {
	g.r.t.Helper()
	b, err := g.Client.Config(driver.WritebackOffset, 1)
	if err != nil || (b[0] == 0) != through {
		g.r.t.Errorf("writeback is %d, %v", b, err)
	}
}

// set is the guest's write to the field.
func (g *guest) set(writeback byte) {
	g.r.t.Helper()
	if err := g.Client.SetConfig(driver.WritebackOffset, []byte{writeback}); err != nil {
		g.r.t.Fatal(err)
	}
}

// restart stops the queue and starts it again, with features, if they are not 0.
func (g *guest) restart(features uint64) {
	g.r.t.Helper()
	base, err := g.Queue(0).Stop()
	if err == nil && features != 0 {
		err = g.Client.SetFeatures(features)
	}
	if err = errors.Join(err, g.Queue(0).Start(base)); err != nil {
		g.r.t.Fatal(err)
	}
}

// The messages of QEMU's generic device when a PC's firmware has tried the disk and Linux
// comes: Linux reads the field before the front-end passes its features on.
func TestFirmwareThenLinux(t *testing.T) {
	r := plainRig(t, 1)
	c, ended := r.dial()
	show := func() byte {
		t.Helper()
		b, err := c.Config(0, driver.BlkConfigBytes)
		if err != nil {
			t.Fatal(err)
		}
		return b[driver.WritebackOffset]
	}
	if err := errors.Join(c.SetProtocolFeatures(vhostuser.ProtocolMQ|vhostuser.ProtocolConfig|vhostuser.ProtocolReplyAck), c.SetOwner(),
		c.SetFeatures(0x140000046), c.SetVringEnable(0, false)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.VringBase(0); err != nil {
		t.Fatal(err)
	}
	if was := show(); was != 0 {
		t.Errorf("writeback is %d to who may take writes for stable", was)
	}
	if err := c.SetFeatures(0x570007e46); err != nil {
		t.Fatal(err)
	}
	if now := show(); now != 0 || !r.dev.WriteThrough() {
		t.Errorf("writeback is %d, and write-through %v, after it was 0", now, r.dev.WriteThrough())
	}
	if err := errors.Join(c.Close(), <-ended); err != nil {
		t.Fatal(err)
	}
}

// A guest that boots finds a write-back cache, and one that was shown or has set another
// one keeps that, whatever comes.
func TestCacheModeIsKept(t *testing.T) {
	for name, play := range map[string]func(*guest, *gate){
		"a boot": func(g *guest, gate *gate) {
			g.stored(gate, false)
			g.restart(0)
			g.restart(g.Features)
			g.stored(gate, false)
		},
		"the firmware took neither": func(g *guest, gate *gate) {
			g.restart(g.Features &^ cacheFeatures)
			g.stored(gate, true) // and shown
			g.restart(g.Features)
			g.stored(gate, true)
			g.set(1)
			g.stored(gate, false)
		},
		"the firmware took neither, which nobody was shown": func(g *guest, gate *gate) {
			g.restart(g.Features &^ cacheFeatures)
			g.restart(g.Features)
			g.stored(gate, false)
		},
		"the driver comes anew": func(g *guest, gate *gate) {
			g.set(0)
			g.stored(gate, true)
			g.restart(g.Features &^ driver.BlkMQ)
			g.restart(g.Features)
			g.stored(gate, true)
			g.set(1)
			g.restart(g.Features)
			g.stored(gate, false)
		},
		"a reboot": func(g *guest, gate *gate) {
			g.set(0)
			for _, reset := range []func() error{g.Client.ResetDevice, func() error { return g.Client.SetStatus(0) }} {
				base, err := g.Queue(0).Stop()
				if err = errors.Join(err, reset(), g.Client.SetFeatures(g.Features), g.Queue(0).Start(base)); err != nil {
					g.r.t.Fatal(err)
				}
				g.stored(gate, true)
			}
		},
		"a guest that was saved, and is back": func(g *guest, gate *gate) {
			g.stored(gate, false)
			base, err := g.Queue(0).Stop()
			if err = errors.Join(err, g.Client.ResetDevice(), g.Client.SetFeatures(g.Features), g.Queue(0).Start(base)); err != nil {
				g.r.t.Fatal(err)
			}
			g.stored(gate, true) // what that one was shown nobody knows
		},
		"the front-end writes the whole space": func(g *guest, gate *gate) {
			space, err := g.Client.Config(0, driver.BlkConfigBytes) // with 1
			if err = errors.Join(err, g.Client.SetConfig(driver.WritebackOffset, []byte{0})); err != nil {
				g.r.t.Fatal(err)
			}
			g.restart(g.Features &^ cacheFeatures)
			if err := g.Client.SetConfig(0, space); err != nil {
				g.r.t.Fatal(err)
			}
			g.stored(gate, true) // it took neither, and did not mean it
		},
	} {
		for kind, make := range cacheRigs {
			t.Run(name+", "+kind, func(t *testing.T) {
				r := make(t)
				gate := r.newGate()
				g := r.connect(frontend.Options{})
				play(g, gate)
				g.leave()
			})
		}
	}
}

var cacheRigs = map[string]func(*testing.T) *rig{
	"ordinary": func(t *testing.T) *rig { return plainRig(t, 2) },
	"zoned":    func(t *testing.T) *rig { return zonedRig(t, smallZones, 2) },
}

// A process goes on with a guest in the middle: what that was shown comes with the record
// of requests in flight, or with the device's state, and without these it is not known.
func TestCacheModeInAnotherProcess(t *testing.T) {
	type way struct {
		through bool // the guest has set that
		o       frontend.Options
		state   bool // the device's state goes along
		spoil   func(*guest)
		want    bool
	}
	spoil := func(word uint64) func(*guest) {
		return func(g *guest) { g.recordOf(1).Ring(0).SetCache(word) }
	}
	for name, w := range map[string]way{
		"record":                        {o: frontend.Options{Inflight: true}},
		"record, packed":                {o: frontend.Options{Inflight: true, Packed: true}},
		"record, write-through":         {o: frontend.Options{Inflight: true}, through: true, want: true},
		"record, write-through, packed": {o: frontend.Options{Inflight: true, Packed: true}, through: true, want: true},
		"record of an older zvhost":     {o: frontend.Options{Inflight: true}, spoil: spoil(0), want: true},
		"record with nonsense":          {o: frontend.Options{Inflight: true}, spoil: spoil(7), want: true},
		"no record":                     {want: true},
		"no record, packed":             {o: frontend.Options{Packed: true}, want: true},
		"no record, no CONFIG_WCE":      {o: frontend.Options{Without: driver.BlkConfigWCE}, want: true},
		"state":                         {state: true},
		"state, write-through":          {state: true, through: true, want: true},
	} {
		for kind, make := range cacheRigs {
			t.Run(name+", "+kind, func(t *testing.T) {
				r := make(t)
				g := r.connect(w.o)
				g.want("flush", driver.StatusOK, g.Queue(0).Flush())
				if w.through {
					g.set(0)
				}
				if w.spoil != nil {
					w.spoil(g)
				}
				path := copyOf(t, r.path)
				next := newRig(t, path, 2)
				gate := next.newGate()
				client, ended := next.dial()
				if w.state {
					base, err := g.Queue(0).Stop()
					if err != nil {
						t.Fatal(err)
					}
					state, err := g.Client.SaveState()
					if err = errors.Join(err, client.SetProtocolFeatures(vhostuser.Offered), client.LoadState(state)); err != nil {
						t.Fatal(err)
					}
					was, err := g.Disk.Move(client, []uint32{base})
					if err = errors.Join(err, was.Close()); err != nil {
						t.Fatal(err)
					}
				} else if err := g.Disk.Reconnect(client); err != nil {
					t.Fatal(err)
				}
				if err := <-g.ended; err != nil {
					t.Fatal(err)
				}
				g.r, g.ended = next, ended
				g.stored(gate, w.want)
				g.set(1)
				g.stored(gate, false)
				g.leave()
			})
		}
	}
}

// A front-end that reads the field first shows that to its guest: what the one before was
// shown counts no more. One that does not goes on with what was shown before.
func TestNextFrontEnd(t *testing.T) {
	r := plainRig(t, 1)
	gate := r.newGate()
	for range 2 {
		g := r.connect(frontend.Options{})
		g.stored(gate, false)
		g.set(0)
		g.stored(gate, true)
		client, ended := r.dialAfter(g)
		if err := g.Disk.Reconnect(client); err != nil {
			t.Fatal(err)
		}
		g.ended = ended
		g.stored(gate, true)
		g.leave()
	}
}

// dialAfter starts another session when that of g has come to its end.
func (r *rig) dialAfter(g *guest) (*frontend.Client, chan error) {
	r.t.Helper()
	if err := errors.Join(g.Client.Close(), <-g.ended); err != nil {
		r.t.Fatal(err)
	}
	return r.dial()
}

// What another process left of a session under a keeper.
func TestCacheModeUnderKeeper(t *testing.T) {
	r := plainRig(t, 1)
	if err := errors.Join(r.dev.ReadConfig(make([]byte, driver.BlkConfigBytes), 0), r.dev.SetFeatures(r.dev.Features())); err != nil {
		t.Fatal(err)
	}
	is, boot := r.dev.State()
	if err := r.dev.WriteConfig([]byte{0}, driver.WritebackOffset); err != nil {
		t.Fatal(err)
	}
	_, through := r.dev.State()
	r.close()
	for name, c := range map[string]struct {
		is, choices uint64
		want        bool
	}{
		"as booted": {is, boot, false}, "write-through": {is, through, true},
		"an older zvhost": {is, 0, true}, "an older zvhost, write-through": {is | 1, 0, true},
	} {
		next := newRig(t, copyOf(t, r.path), 1)
		if err := errors.Join(next.dev.SetFeatures(next.dev.Features()), next.dev.Restore(c.is, c.choices)); err != nil {
			t.Fatal(err)
		}
		if next.dev.BeginRing(false); next.dev.WriteThrough() != c.want {
			t.Errorf("%s: write-through is %v", name, !c.want)
		}
		next.close()
	}
}
