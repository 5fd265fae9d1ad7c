package backend

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"hash"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"testing/synctest"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/powercut"
)

var (
	cutsFlag = flag.Int("powercuts", 2000, "how often the power is cut; make robust: 50000")
	seedFlag = flag.Uint64("powerseed", 0, "the run that TestPowerCuts begins with; 0: another one each time")
)

// A cutRun is the life of one image: it is opened, used, and closed, killed or
// cut off, several times. On the way the power is cut again and again, and each
// image that is left is opened and judged; the power may go while that is done,
// too.
type cutRun struct {
	rnd   *rand.Rand
	dir   string
	plant func(*cutHost) image.Store // a bug, or nil
	hot   []int                      // the zones that are used
	unit  uint32                     // of the storage: see cutHost

	files int
	ids   uint32
	err   error // the first that was found in the middle of a call
	told  cutTally
	trace hash.Hash64
}

type cutTally struct{ cuts, recovering, kills, closes, requests int }

func (t *cutTally) add(u cutTally) {
	t.cuts += u.cuts
	t.recovering += u.recovering
	t.kills += u.kills
	t.closes += u.closes
	t.requests += u.requests
}

func (r *cutRun) note(text string, args ...any) { fmt.Fprintf(r.trace, text+"\n", args...) }

func (r *cutRun) oneIn(n int) bool { return r.rnd.IntN(n) == 0 }

// runCuts is one run; the seed says all of it.
func runCuts(dir string, seed uint64, unit uint32, plant func(*cutHost) image.Store) (cutTally, uint64, error) {
	r := &cutRun{rnd: rand.New(rand.NewPCG(seed, 1)), unit: unit, plant: plant, trace: fnv.New64a()}
	var err error
	if r.dir, err = os.MkdirTemp(dir, "run"); err == nil {
		err = errors.Join(r.run(), os.RemoveAll(r.dir))
	}
	r.told.requests = int(r.ids)
	return r.told, r.trace.Sum64(), err
}

// geometry is a random disk, small: what is rare happens often there.
func (r *cutRun) geometry() zone.Geometry {
	g := zone.Geometry{BlockSize: 512, ZoneSectors: 8 << r.rnd.IntN(4)}
	zones := 3 + r.rnd.IntN(10)
	if r.oneIn(8) { // several blocks of the table
		g.ZoneSectors = 8
		zones = 500 + r.rnd.IntN(700)
	}
	if r.oneIn(3) {
		g.BlockSize = 4096
	}
	block := uint64(g.BlockSize) >> disk.SectorShift
	if r.oneIn(2) {
		g.ZoneCapacitySectors = (1 + uint64(r.rnd.IntN(int(g.ZoneSectors/block)))) * block
	}
	g.CapacitySectors = uint64(zones) * g.ZoneSectors
	if r.oneIn(2) {
		g.CapacitySectors -= uint64(r.rnd.IntN(int(g.ZoneSectors/block))) * block
	}
	if r.oneIn(2) {
		g.ConventionalZones = r.rnd.IntN(3)
	}
	if r.oneIn(2) {
		g.MaxActive = 2 + uint32(r.rnd.IntN(5))
	}
	if r.oneIn(2) {
		g.MaxOpen = 1 + uint32(r.rnd.IntN(5))
		if g.MaxActive != 0 {
			g.MaxOpen = min(g.MaxOpen, g.MaxActive)
		}
	}
	r.hot = r.hot[:0]
	for i := range zones {
		if zones < 20 || i < 3 || i == zones-1 || i%508 < 2 || i%508 > 505 {
			r.hot = append(r.hot, i)
		}
	}
	return g
}

func (r *cutRun) file() string {
	r.files++
	return filepath.Join(r.dir, fmt.Sprint(r.files))
}

func (r *cutRun) run() error {
	g := r.geometry()
	path := r.file()
	rec := powercut.New(0)
	if err := image.CreateOver(path, g, image.Start{}, func(f *os.File) image.Target { return &cutFile{f: f, rec: rec} }); err != nil {
		return err
	}
	h, err := openHost(path, rec, r.unit)
	if err != nil {
		return err
	}
	m := newCutModel(h.l.Geometry)
	for _, i := range r.hot {
		m.from(i, zone.Descriptor{}, make([]cutStamp, h.l.Length(i)))
	}
	sure := true
	for range 2 + r.rnd.IntN(3) {
		d, fresh, err := r.enter(h, m, 0, sure)
		if err != nil {
			return errors.Join(err, h.f.Close())
		}
		m = fresh
		if h, sure, err = r.live(h, d, m); err != nil {
			return err
		}
	}
	return h.f.Close()
}

// live uses d for a while, with power cuts that only a copy of the host has, and
// ends it in one way or another. It returns where life goes on, and whether that
// has all that was answered.
func (r *cutRun) live(h *cutHost, d *zoned, m *cutModel) (on *cutHost, sure bool, err error) {
	u, err := r.newLoad(h, d, m)
	if err != nil {
		return nil, false, err
	}
	for range 30 + r.rnd.IntN(120) {
		if err = u.step(); err == nil && r.oneIn(15) {
			err = r.cut(h, m, 1)
		}
		if err != nil {
			return nil, false, errors.Join(err, u.abandon(), h.f.Close())
		}
	}
	switch r.rnd.IntN(3) {
	case 0:
		r.told.closes++
		if err := u.close(r.cutting(h, m, 1)); r.err != nil || err != nil {
			return nil, false, errors.Join(r.err, err, h.f.Close())
		}
		m.flushed(never)
		if err := r.cut(h, m, 1); err != nil {
			return nil, false, errors.Join(err, h.f.Close())
		}
		return h, true, nil
	case 1:
		r.told.kills++
		m.killed = true
		return h, true, u.kill()
	default:
		on, err = r.left(h)
		return on, false, errors.Join(err, u.abandon(), h.f.Close())
	}
}

// cutting is what is called in the middle of a step: now and then the power is
// cut there.
func (r *cutRun) cutting(h *cutHost, m *cutModel, depth int) func() error {
	return func() error {
		if r.err == nil && (depth == 1 && r.oneIn(3) || depth > 1 && depth <= 3 && r.oneIn(15)) {
			r.told.recovering++
			r.err = r.cut(h, m, depth)
		}
		return r.err
	}
}

// left is what a power cut now leaves of h, which stays as it is.
func (r *cutRun) left(h *cutHost) (*cutHost, error) {
	r.told.cuts++
	if err := h.observe(); err != nil {
		return nil, err
	}
	rec := h.rec.Cut(r.rnd, h.bounds()...)
	path := r.file()
	if err := writeFile(path, rec); err != nil {
		return nil, err
	}
	if err := mustBeClean(path); err != nil {
		return nil, err
	}
	return openHost(path, rec, h.unit)
}

// mustBeClean says what the checker finds in the image at path.
func mustBeClean(path string) error {
	findings, err := image.Check(path)
	if err == nil && len(findings) > 0 {
		err = fmt.Errorf("check: %v", findings)
	}
	return err
}

func writeFile(path string, rec *powercut.File) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(rec.WriteTo(f), f.Truncate(rec.Size()), f.Close())
}

// cut cuts the power of a copy of h, and judges what is left.
func (r *cutRun) cut(h *cutHost, m *cutModel, depth int) error {
	n, err := r.left(h)
	if err != nil {
		return err
	}
	d, fresh, err := r.enter(n, m, depth, false)
	if err == nil {
		err = r.use(n, d, fresh)
	}
	// The file's name stays: another file must not get its inode number, which
	// says in which place an image is.
	return errors.Join(err, n.f.Truncate(0), n.f.Close())
}

// enter opens the image of h, which may have to recover, and holds what is found
// against m; sure says that nothing can have been lost. It returns a model that
// begins with what was found.
func (r *cutRun) enter(h *cutHost, m *cutModel, depth int, sure bool) (*zoned, *cutModel, error) {
	s, _, err := format.ReadState(h.f, h.l.UUID)
	if err != nil {
		return nil, nil, err
	}
	var d *zoned
	for again := true; again; {
		again = false
		cut := r.cutting(h, m, depth+1)
		d, err = h.open(r.plant, func() error {
			if err := cut(); err != nil {
				return err
			}
			if again = r.oneIn(25); again { // killed while it recovers
				h.dead = true
				return errDead
			}
			return nil
		})
		if r.err != nil || err != nil && !again {
			if err == nil {
				h.inCall = func() error { return nil }
				err = d.Close()
			}
			return nil, nil, errors.Join(r.err, err)
		}
	}
	if sure {
		m.flushed(never)
	}
	h.inCall = func() error { return nil }
	fresh := newCutModel(m.g)
	if err = r.judge(h, d, m, fresh, !sure && !s.Clean); err != nil {
		err = errors.Join(err, d.Close())
	}
	h.inCall = nil
	return d, fresh, err
}

// judge holds d against m, as a guest sees it.
func (r *cutRun) judge(h *cutHost, d *zoned, m, fresh *cutModel, wasCut bool) error {
	lane, err := newCutLane(h)
	if err != nil {
		return err
	}
	defer func() { _ = lane.Close() }()
	count := zone.Resources{}
	for i := range d.zones {
		z := d.ReportZone(i)
		_ = count.Move(zone.Empty, z.State) // without limits it counts only
		if wasCut && z.State.IsOpen() {
			return fmt.Errorf("zone %d is %v after a power cut", i, z.State)
		}
		if m.zones[i] == nil {
			if z.State != zone.Empty {
				return fmt.Errorf("zone %d, which nobody used, is %v", i, z.State)
			}
			continue
		}
		data := bytes.Repeat([]byte{0xee}, int(z.Length)<<disk.SectorShift)
		if err := lane.do(d, disktest.NewRequest(disk.OpRead, z.Start, data)); err != nil {
			return err
		}
		got, err := stampsOf(data)
		if err != nil {
			return fmt.Errorf("zone %d: %w", i, err)
		}
		if m.g.Conventional(i) {
			err = m.judgeConventional(i, got)
		} else if err = m.judge(i, z, got); err == nil {
			err = r.rawIs(h, i, data)
		}
		if err != nil {
			return err
		}
		fresh.from(i, z, got)
		r.note("%d %v %d", i, z.State, z.WP)
	}
	if g := &m.g; g.MaxOpen != 0 && count.Open > g.MaxOpen || g.MaxActive != 0 && count.Active > g.MaxActive {
		return fmt.Errorf("%d open and %d active zones, at most %d and %d may be", count.Open, count.Active, g.MaxOpen, g.MaxActive)
	}
	return nil
}

// rawIs says whether zone i holds in the file what a guest reads.
func (r *cutRun) rawIs(h *cutHost, i int, data []byte) error {
	raw := make([]byte, len(data))
	if _, err := h.f.ReadAt(raw, h.l.Offset(uint64(i)*h.l.ZoneSectors)); err != nil {
		return err
	}
	if !bytes.Equal(raw, data) {
		return fmt.Errorf("zone %d holds something else in the file than what a guest reads", i)
	}
	return nil
}

// use goes on with a disk that was found after a power cut, a little, and closes
// it.
func (r *cutRun) use(h *cutHost, d *zoned, m *cutModel) error {
	h.inCall = func() error { return nil }
	lane, err := newCutLane(h)
	if err != nil {
		return errors.Join(err, d.Close())
	}
	if err := errors.Join(r.writeOn(lane, d), lane.Close(), d.Close()); err != nil {
		return err
	}
	return mustBeClean(h.path)
}

// writeOn writes at the write pointer of some zone that can be written, and
// flushes.
func (r *cutRun) writeOn(lane *cutLane, d *zoned) error {
	data := make([]byte, d.img.BlockSize)
	r.ids++
	stampAll(data, r.ids)
	// Where a guest holds zones open, as in an image that was closed cleanly, there
	// may be no place for one more; implicitly open ones make place.
	held := false
	for i := range d.zones {
		held = held || d.ReportZone(i).State == zone.ExpOpen
	}
	first := r.rnd.IntN(len(r.hot))
	for n := range r.hot {
		i := r.hot[(first+n)%len(r.hot)]
		z := d.ReportZone(i)
		if d.img.Conventional(i) || z.State == zone.Full {
			continue
		}
		err := lane.do(d, disktest.NewRequest(disk.OpWrite, z.WP, data))
		if errors.Is(err, zone.ErrActiveLimit) && z.State == zone.Empty || errors.Is(err, zone.ErrOpenLimit) && held {
			continue
		} else if err != nil {
			return fmt.Errorf("write at the write pointer of zone %d, %v, after a power cut: %w", i, z.State, err)
		}
		got := make([]byte, len(data))
		if err := lane.do(d, disktest.NewRequest(disk.OpRead, z.WP, got)); err != nil || !bytes.Equal(got, data) {
			return fmt.Errorf("read of zone %d after a power cut: %w", i, err)
		}
		break
	}
	return lane.do(d, disktest.NewRequest(disk.OpFlush, 0, nil))
}

// inBubble runs f where what goroutines do is known: in a bubble, and with one
// processor, so that they run one after the other.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	synctest.Test(t, f)
}

// The power is cut again and again, at random instants and in the middle of
// commits, resets, recovery and close, and each time the disk is what was
// promised: docs/durability.md.
func TestPowerCuts(t *testing.T) { cutPower(t, "TestPowerCuts", *cutsFlag, 0) }

// The same where the storage is read and written in blocks that are larger than most of
// the images': the end of one write and the beginning of the next share one, which is
// read and written by both, and torn with both.
func TestPowerCutsInSharedBlocks(t *testing.T) {
	dir := disktest.FastDir(t)
	inBubble(t, func(t *testing.T) {
		// A daemon is killed while a write with an address waits for a block that it shares,
		// and a later write has filled the zone.
		if _, _, err := runCuts(dir, 8111857344011313101, 4096, nil); err != nil {
			t.Error(err)
		}
	})
	cutPower(t, "TestPowerCutsInSharedBlocks", *cutsFlag/3, 4096)
}

func cutPower(t *testing.T, name string, cuts int, unit uint32) {
	dir := disktest.FastDir(t)
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()>>1 | 1
	}
	inBubble(t, func(t *testing.T) {
		var sum cutTally
		for ; sum.cuts < cuts; seed++ {
			told, _, err := runCuts(dir, seed, unit, nil)
			sum.add(told)
			if err != nil {
				t.Fatalf("go test ./backend -run '^%s$' -args -powercuts=3 -powerseed=%d\n%v", name, seed, err)
			}
		}
		t.Logf("%d power cuts, %d of them in recovery and close; %d kills, %d closes, %d writes", sum.cuts, sum.recovering, sum.kills, sum.closes, sum.requests)
	})
}

// A seed says all that happens.
func TestPowerCutReplays(t *testing.T) {
	dir := disktest.FastDir(t)
	inBubble(t, func(t *testing.T) {
		for seed := uint64(1); seed <= 5; seed++ {
			a, traceA, err := runCuts(dir, seed, 0, nil)
			b, traceB, errB := runCuts(dir, seed, 0, nil)
			if err != nil || errB != nil || traceA != traceB || a != b {
				t.Errorf("seed %d: %x %+v %v, then %x %+v %v", seed, traceA, a, err, traceB, b, errB)
			}
		}
	})
}
