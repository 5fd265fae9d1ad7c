package device

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
)

// cacheSeeds are the seeds of the sequences: forty, and those of the next four hundred that
// find a bug which the first ones do not (TestPlantedCacheModeIsFound).
var cacheSeeds = func() (seeds []uint64) {
	for seed := range uint64(40) {
		seeds = append(seeds, seed)
	}
	return append(seeds, 85, 361, 380, 399)
}()

// A cacheSequence is a guest and its front-end that take random steps, and what this guest
// may rely on, by a model that knows of the guest alone: what it read from the field
// writeback, and wrote to it.
type cacheSequence struct {
	t    *testing.T
	rnd  *rand.Rand
	o    frontend.Options
	g    *guest
	gate *gate

	features uint64 // that the driver has taken
	// stable says that the guest may take an answered write for stable, and sends no
	// flush: it was shown 0 last, or has set 0.
	stable bool
	unused bool     // no request is sent for now: a daemon that comes finds a ring that nobody has used
	steps  []string // taken
}

// Whatever a guest, its front-end and the daemons it goes through do in whatever order: a
// guest that was shown writeback 0, or has set it, has each write stored before it is
// answered, and is not shown 1, until it sets 1 or another guest comes.
func TestCacheModeInRandomSequences(t *testing.T) {
	for _, seed := range cacheSeeds {
		for kind, make := range cacheRigs {
			t.Run(fmt.Sprintf("seed %d, %s", seed, kind), func(t *testing.T) {
				s := &cacheSequence{t: t, rnd: rand.New(rand.NewPCG(seed, 1))}
				s.o = frontend.Options{QueueSize: 16, BufferBytes: 4096, Packed: s.chance(), Inflight: s.chance(), Without: s.anyOf(cacheFeatures)}
				r := make(t)
				s.gate = r.newGate()
				s.boot(r)
				s.unused = s.rnd.IntN(3) == 0
				for n := 1 + s.rnd.IntN(9); n > 0 && !t.Failed(); n-- {
					step := cacheSteps[s.rnd.IntN(len(cacheSteps))]
					s.did("%s", step.name)
					step.take(s)
					s.checkWrite()
				}
				s.did("a new process")
				s.restart() // which has the least to go by
				s.unused = false
				s.checkWrite()
				s.g.vanish()
			})
		}
	}
}

var cacheSteps = []struct {
	name string
	take func(*cacheSequence)
}{
	{"the guest reads the field", (*cacheSequence).read},
	{"the guest sets", func(s *cacheSequence) { s.set(byte(s.rnd.IntN(2))) }},
	{"the queue stops and starts", func(s *cacheSequence) { s.start(s.stop()) }},
	{"SET_FEATURES", func(s *cacheSequence) { s.negotiate(s.stop()) }},
	{"RESET_DEVICE", func(s *cacheSequence) { s.reset(s.g.Client.ResetDevice) }},
	{"SET_STATUS 0", func(s *cacheSequence) { s.reset(func() error { return s.g.Client.SetStatus(0) }) }},
	{"SET_OWNER", (*cacheSequence).ownAgain},
	{"a new session", (*cacheSequence).reconnect},
	{"a new process", (*cacheSequence).restart},
	{"a move with DEVICE_STATE", (*cacheSequence).move},
	{"another guest boots", func(s *cacheSequence) {
		s.g.vanish()
		s.boot(s.g.r)
	}},
}

func (s *cacheSequence) chance() bool { return s.rnd.IntN(2) == 0 }

// anyOf draws some of features' bits, or none.
func (s *cacheSequence) anyOf(features uint64) uint64 { return features & s.rnd.Uint64() }

func (s *cacheSequence) did(format string, args ...any) {
	s.steps = append(s.steps, fmt.Sprintf(format, args...))
}

// errorf fails the test with the steps that led there.
func (s *cacheSequence) errorf(format string, args ...any) {
	s.t.Helper()
	s.t.Errorf("%s, after:\n\t%s\n%s", fmt.Sprintf(format, args...), strings.Join(s.steps, "\n\t"), s.g.r.book)
}

// must ends the test when a step has failed that may not.
func (s *cacheSequence) must(errs ...error) {
	s.t.Helper()
	if err := errors.Join(errs...); err != nil {
		s.errorf("%v", err)
		s.t.FailNow()
	}
}

// checkWrite writes, and checks that this was stored before it was answered, if the guest
// may rely on that.
func (s *cacheSequence) checkWrite() {
	s.t.Helper()
	if s.unused {
		return
	}
	// Case 1 of "Device Operation": the driver has taken neither FLUSH nor CONFIG_WCE.
	if neither := s.features&cacheFeatures == 0; (s.stable || neither) && !s.write() {
		s.errorf("a write was answered before it was stored")
	}
}

// write says whether a write was stored before it was answered. What a zoned image does
// for that does not pass the gate: backend's TestStable looks at that.
func (s *cacheSequence) write() (stored bool) {
	was := s.gate.stable.Load()
	s.must(s.g.Queue(0).Write(pattern(4096, 1), 0)) // of a conventional zone, if there are zones
	if s.g.Config.ZoneSectors != 0 {
		return s.g.r.dev.WriteThrough()
	}
	return s.gate.stable.Load() > was
}

// boot connects a front-end that reads the field before anything else, for a guest that was
// shown nothing before.
func (s *cacheSequence) boot(r *rig) {
	s.g = r.connect(s.o)
	s.features, s.stable = s.g.Features, s.g.Config.Writeback == 0
	s.did("shown %d", s.g.Config.Writeback)
}

func (s *cacheSequence) read() { s.readFrom(s.g.Client) }

// readFrom has the guest read the field from the daemon that c is connected to.
func (s *cacheSequence) readFrom(c *frontend.Client) {
	b, err := c.Config(driver.WritebackOffset, 1)
	s.must(err)
	s.did("shown %d", b[0])
	if b[0] != 0 && s.stable {
		s.errorf("the guest is shown %d", b[0])
	}
	s.stable = b[0] == 0
}

// set is the guest's write to the field. A driver that has taken neither feature has no
// business there: its 1 means nothing.
func (s *cacheSequence) set(writeback byte) {
	s.did("%d", writeback)
	s.must(s.g.Client.SetConfig(driver.WritebackOffset, []byte{writeback}))
	switch {
	case writeback == 0:
		s.stable = true
	case s.features&cacheFeatures != 0:
		if s.stable = false; !s.unused && s.write() {
			s.errorf("a write was stored before it was answered, which the guest has not asked for")
		}
	}
}

func (s *cacheSequence) stop() (base uint32) {
	base, err := s.g.Queue(0).Stop()
	s.must(err)
	return base
}

func (s *cacheSequence) start(base uint32) { s.must(s.g.Queue(0).Start(base)) }

// negotiate takes other features, and starts the queue with them.
func (s *cacheSequence) negotiate(base uint32) {
	s.features = s.g.Features &^ s.anyOf(cacheFeatures)
	s.did("features %#x", s.features)
	s.must(s.g.Client.SetFeatures(s.features))
	s.start(base)
}

// reset resets the device, as a guest does that reboots, which may look at the field first.
func (s *cacheSequence) reset(reset func() error) {
	base := s.stop()
	s.must(reset())
	if s.chance() {
		s.read()
	}
	s.negotiate(base)
}

// ownAgain begins anew on the same connection.
func (s *cacheSequence) ownAgain() {
	base := s.g.Queue(0).Ring().Rewound()
	if s.chance() {
		base = s.stop()
	}
	_, err := s.g.Move(s.g.Client, []uint32{base})
	s.must(err)
	s.features = s.g.Features
}

// reconnect goes on with the guest in another session with the same daemon.
func (s *cacheSequence) reconnect() {
	if s.chance() {
		s.stop()
	}
	client, ended := s.g.r.dialAfter(s.g)
	s.must(s.g.Reconnect(client))
	s.features, s.g.ended = s.g.Features, ended
}

// restart goes on with the guest in another daemon, which knows what the record of requests
// in flight says, if there is one. Without one, a driver that has taken FLUSH alone goes by
// that, and sends flushes: it has no field, and "SHOULD assume presence of a writeback cache"
// ("Driver Requirements: Device Initialization").
func (s *cacheSequence) restart() {
	next, client, ended := s.another()
	s.must(s.g.Reconnect(client), <-s.g.ended)
	s.features, s.g.r, s.g.ended = s.g.Features, next, ended
	if !s.o.Inflight && s.features&cacheFeatures == virtio.BlkFeatureFlush {
		s.stable = false
	}
}

// move goes on with the guest in another daemon, which is given the device's state.
func (s *cacheSequence) move() {
	base := s.stop()
	state, err := s.g.Client.SaveState()
	s.must(err)
	next, client, ended := s.another()
	s.must(client.SetProtocolFeatures(vhostuser.Offered), client.LoadState(state))
	if s.chance() {
		s.must(client.SetOwner())
		s.readFrom(client)
	}
	was, err := s.g.Move(client, []uint32{base})
	s.must(err)
	s.must(was.Close(), <-s.g.ended)
	s.features, s.g.r, s.g.ended = s.g.Features, next, ended
}

// another is another daemon, with a connection to it, over what the disk is now.
func (s *cacheSequence) another() (*rig, *frontend.Client, chan error) {
	next := newRig(s.t, copyOf(s.t, s.g.r.path), 1)
	s.gate = next.newGate()
	client, ended := next.dial()
	return next, client, ended
}
