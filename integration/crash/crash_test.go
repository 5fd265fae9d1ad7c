package crash

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/vhostuser/frontend"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "what everything random follows from; 0: another one each time")
	roundsFlag = flag.Int("rounds", 100, "how often the daemon is killed under load")
)

// geometries are the disks that the rounds are spread over: small, so that
// zones fill up, are reset and meet again often.
var geometries = []rig.Geometry{
	{Name: "plain", Size: 4096, Zone: 512, Cap: 512, Block: 1},
	{Name: "limits", Size: 4096, Zone: 256, Cap: 192, MaxOpen: 3, MaxActive: 5, Block: 1},
	{Name: "conventional zones, 4096-byte blocks", Size: 8192, Zone: 512, Cap: 512, Conventional: 2, MaxOpen: 4, Block: 8},
	{Name: "active limit, smaller last zone", Size: 2000, Zone: 128, Cap: 96, MaxActive: 6, Block: 1},
	{Name: "one zone", Size: 1024, Zone: 1024, Cap: 1000, Block: 1},
	{Name: "everything at once", Size: 3944, Zone: 256, Cap: 248, Conventional: 1, MaxOpen: 2, MaxActive: 3, Block: 8},
}

// A tally is what a run has done.
type tally struct {
	rounds, starts, kills              int
	requests, answered, flight, landed int
	undecided                          int // zones of which the oracle could not tell
}

func (s *tally) String() string {
	if s.kills > 0 {
		return fmt.Sprintf("%d kills in %d sessions; %d requests checked, %d of them answered; %d zones too intricate to judge",
			s.kills, s.rounds, s.requests, s.answered, s.undecided)
	}
	return fmt.Sprintf("%d kills under load and %d at the start; %d requests checked, %d of them answered; %d in flight, of which %d had left data; %d zones too intricate to judge",
		s.rounds, s.starts, s.requests, s.answered, s.flight, s.landed, s.undecided)
}

// A trial is one image, whose daemon is killed over and over.
type trial struct {
	binary, dir string
	g           *rig.Geometry
	seed        uint64
	rng         *rand.Rand
	nextID      uint64
	tally       *tally
	inflight    bool // a record of requests in flight
}

// A finding is something wrong with the daemon, and not with the trial.
type finding struct{ error }

func findingf(format string, args ...any) error { return finding{fmt.Errorf(format, args...)} }

// found says whether err is a finding, for tests that want one.
func found(t *testing.T, seed uint64, err error) {
	t.Helper()
	if !errors.As(err, new(finding)) {
		t.Errorf("-seed=%d: not found, but: %v", seed, err)
	}
	t.Logf("found: %v", err)
}

// run kills the daemon so many times, and returns the first thing that is
// wrong.
func (c *trial) run(rounds int) error {
	before, p, err := c.begin()
	if err != nil {
		return err
	}
	defer func() { kill(p) }()
	for round := range rounds {
		next, after, err := c.round(p, before)
		if next != nil {
			p = next
		}
		if err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		before = after
	}
	return nil
}

// begin makes the image and serves it.
func (c *trial) begin() (before []zoneView, p *rig.Daemon, err error) {
	if before, err = create(c.g, c.binary, c.dir); err != nil {
		return nil, nil, err
	}
	if p, err = launch(c.binary, c.dir); err == nil {
		err = p.Ready()
	}
	return before, p, err
}

// round loads p, kills it, starts another one and compares.
func (c *trial) round(p *rig.Daemon, before []zoneView) (*rig.Daemon, []zoneView, error) {
	l := &load{
		g: c.g, seed: c.seed, nextID: &c.nextID, due: make(chan struct{}),
		guess: make([]uint64, len(before)), told: make([]uint64, len(before)),
		left: 1 + c.rng.IntN(1+c.rng.IntN(1500)), // early ones more often: then all is new to the daemon
	}
	for i := range before {
		l.guess[i], l.told[i] = before[i].written, before[i].written
	}
	var err error
	if l.disk, err = c.connect(queues); err != nil {
		return nil, nil, err
	}
	err = errors.Join(l.storm(p, c.rng), l.disk.Abandon())
	if err != nil {
		return nil, nil, err
	}
	if _, err := rig.Run(c.binary, "check", image(c.dir)); err != nil {
		return nil, nil, findingf("after the kill: %w", err)
	}
	next, starts, err := restart(c.binary, c.dir, c.rng)
	c.tally.starts += starts
	if err != nil {
		return next, nil, err
	}
	disk, err := c.connect(1)
	if err != nil {
		return next, nil, err
	}
	after, err := look(c.g, c.binary, c.dir, disk, c.seed)
	if err = errors.Join(err, disk.Close()); err == nil {
		var undecided int
		undecided, err = judge(c.g, before, after, l.ops)
		c.tally.undecided += undecided
	}
	c.count(l)
	return next, after, err
}

func (c *trial) connect(queues int) (*frontend.Disk, error) {
	return rig.Connect(filepath.Join(c.dir, "s"), frontend.Options{Queues: queues, QueueSize: 64, Depth: depth, BufferBytes: bufferBytes, Packed: c.rng.IntN(2) == 1, Inflight: c.inflight})
}

func (c *trial) count(l *load) {
	c.tally.rounds++
	for _, o := range l.ops {
		c.tally.requests++
		switch {
		case o.answered():
			c.tally.answered++
		case o.visible():
			c.tally.landed++
			fallthrough
		default:
			c.tally.flight++
		}
	}
}

// start begins a trial on the geometry with number i.
func start(t *testing.T, binary string, seed uint64, i int, total *tally) *trial {
	t.Logf("%s: -seed=%d", geometries[i].Name, seed)
	return &trial{
		binary: binary, dir: t.TempDir(), g: &geometries[i], seed: seed,
		rng: rand.New(rand.NewPCG(seed, uint64(i))), tally: total,
	}
}

func newSeed() uint64 {
	if *seedFlag != 0 {
		return *seedFlag
	}
	return rand.Uint64()
}

// The daemon is killed at random instants under load: afterwards all that was
// acknowledged is there, and nothing that was not asked for.
func TestKill(t *testing.T) {
	binary, seed, total := build(t, ""), newSeed(), &tally{}
	for i := range geometries {
		rounds := *roundsFlag / len(geometries)
		if i < *roundsFlag%len(geometries) {
			rounds++
		}
		t.Run(geometries[i].Name, func(t *testing.T) {
			if err := start(t, binary, seed, i, total).run(rounds); err != nil {
				t.Errorf("replay with -seed=%d -rounds=%d: %v", seed, *roundsFlag, err)
			}
		})
	}
	t.Log(total)
	if total.answered == 0 || total.flight == 0 || total.landed == 0 {
		t.Errorf("a run that shows nothing: %v", total)
	}
}

// A test that cannot fail shows nothing: bugs that a build tag plants
// (internal/plant) are found.
func TestPlantedBugsAreFound(t *testing.T) {
	for _, plant := range []string{"early", "lost", "stale"} {
		t.Run(plant, func(t *testing.T) {
			binary, seed := buildPlanted(t, "", plant), newSeed()
			var err error
			for i := 0; i < len(geometries) && err == nil; i++ {
				err = start(t, binary, seed, i, &tally{}).run(10)
			}
			found(t, seed, err)
		})
	}
}
