package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/vhostuser/frontend"
)

// geometries are the disks that a run goes through: small, so that zones fill
// up and are reset; and one whose table has several blocks.
var geometries = []rig.Geometry{
	{Name: "conventional zones", Size: 12288, Zone: 512, Cap: 512, Conventional: 2, Block: 1},
	{Name: "limits, 4096-byte blocks, smaller last zone", Size: 12000, Zone: 512, Cap: 384, MaxOpen: 3, MaxActive: 5, Block: 8},
	{Name: "600 zones", Size: 600 * 16, Zone: 16, Cap: 16, MaxActive: 24, Block: 1},
	{Name: "write-through", Size: 8192, Zone: 512, Cap: 448, Conventional: 1, MaxOpen: 6, Block: 1},
}

// writeThrough is the geometry whose disk is used without a write cache, and
// with fewer requests, as each is a sync.
const writeThrough = 3

// A trial is one file system with an image on it, a load, and cuts.
type trial struct {
	binary, dir, fs string
	base            disk // with an empty file system
	g               *rig.Geometry
	through         bool
	seed            uint64
	rng             *rand.Rand
	requests        int
	tally           *tally
}

// A tally is what a run has done.
type tally struct {
	cuts, requests, promises, entries int
	unflushed, kept, torn, zones      int
}

func (s *tally) String() string {
	return fmt.Sprintf("%d cuts; %d requests, %d promises and %d log entries; at the cuts %d unflushed writes, of which %d were kept and %d of these torn; %d zones compared",
		s.cuts, s.requests, s.promises, s.entries, s.unflushed, s.kept, s.torn, s.zones)
}

func (t *trial) path(name string) string { return filepath.Join(t.dir, name) }

// run loads an image, then cuts the power n times. It returns the first thing
// that is wrong.
func (t *trial) run(n int) error {
	h, err := t.load()
	if err != nil {
		return fmt.Errorf("the load: %w", err)
	}
	log, err := os.Open(t.path("log"))
	if err != nil {
		return err
	}
	defer log.Close()
	p := &player{log: log, base: t.base.clone()}
	if p.entries, err = readLog(log); err != nil {
		return err
	}
	t.tally.requests += t.requests
	t.tally.promises += len(h.promises)
	t.tally.entries += len(p.entries)
	created := 0
	for p.entries[created].mark != "created" {
		if created++; created == len(p.entries) {
			return errors.New("the log has lost its marks: it was too small")
		}
	}
	for _, c := range pickCuts(p.entries, created, n, t.rng) {
		c.atom = atoms[t.fs]
		d, err := p.play(&c)
		if err != nil {
			return err
		}
		given := 0
		for _, e := range p.entries[:c.at+1] {
			if strings.HasPrefix(e.mark, "p") {
				given++
			}
		}
		lower, upper := h.window(given)
		if err := t.examine(h, d, lower, upper); err != nil {
			return fmt.Errorf("%v of %d, %d of %d promises given: %w", &c, len(p.entries), given, len(h.promises), err)
		}
		t.tally.cuts++
		t.tally.unflushed += c.unflushed
		t.tally.kept += c.kept
		t.tally.torn += c.torn
	}
	return os.Remove(t.path("log"))
}

// atoms are how many sectors a file system needs to be written whole. XFS takes a
// metadata block for new when its first sector is (xlog_recover_buf_commit_pass2
// in fs/xfs/xfs_buf_item_recover.c): its recovery leaves one that is torn inside
// as it is, and the mount fails.
var atoms = map[string]int{"xfs": 8}

// load runs the client on a new image, and returns its history.
func (t *trial) load() (h *history, err error) {
	var u rig.Undo
	defer func() { err = errors.Join(err, u.Run()) }()
	if err := t.base.save(t.path("disk"), diskBytes); err != nil {
		return nil, err
	}
	u.Add(func() error { return os.Remove(t.path("disk")) })
	if err := rig.Sparse(t.path("log"), logBytes); err != nil {
		return nil, err
	}
	diskLoop, err := u.Loop(t.path("disk"))
	if err != nil {
		return nil, err
	}
	logLoop, err := u.Loop(t.path("log"))
	if err != nil {
		return nil, err
	}
	dev, err := logWrites(&u, "powercut-"+t.fs, diskLoop, logLoop)
	if err != nil {
		return nil, err
	}
	if err := u.Mount(dev.device, t.path("mnt"), t.fs, map[string]string{"ext4": "commit=1"}[t.fs]); err != nil {
		return nil, err
	}
	image := t.path("mnt/disk.zvh")
	if err := t.g.Create(t.binary, image); err != nil {
		return nil, err
	}
	if err := dev.mark("created"); err != nil {
		return nil, err
	}
	p, err := t.serve(image)
	if err != nil {
		return nil, err
	}
	u.Add(func() error { return p.End(unix.SIGKILL) })
	session, err := t.connect()
	if err != nil {
		return nil, err
	}
	u.Add(session.Abandon)
	c := &client{g: t.g, disk: session, daemon: p, log: dev, rng: t.rng, seed: t.seed, h: newHistory(t.g), through: t.through}
	return c.h, c.run(t.requests)
}

// serve starts zvhost on an image, and waits until it serves.
func (t *trial) serve(image string) (*rig.Daemon, error) {
	return rig.Serve(t.binary, "serve", "--socket-path", t.path("s"), "--blk-file", image, "--queues", fmt.Sprint(queues))
}

func (t *trial) connect() (*frontend.Disk, error) {
	return rig.Connect(t.path("s"), frontend.Options{Queues: queues, QueueSize: 64, Depth: depth, BufferBytes: bufferBytes})
}

// examine starts the machine again after a power cut that left d.
func (t *trial) examine(h *history, d disk, lower, upper int) (err error) {
	var u rig.Undo
	defer func() { err = errors.Join(err, u.Run()) }()
	if err := d.save(t.path("disk"), diskBytes); err != nil {
		return err
	}
	u.Add(func() error { return os.Remove(t.path("disk")) })
	device, err := u.Loop(t.path("disk"))
	if err != nil {
		return err
	}
	if err := u.Mount(device, t.path("mnt"), t.fs, ""); err != nil {
		return err
	}
	image := t.path("mnt/disk.zvh")
	if _, err := rig.Run(t.binary, "check", image); err != nil {
		return fmt.Errorf("before it is served again: %w", err)
	}
	if err := t.serveAgain(h, image, lower, upper); err != nil {
		return err
	}
	if _, err := rig.Run(t.binary, "check", image); err != nil {
		return fmt.Errorf("after it was served again: %w", err)
	}
	t.tally.zones += t.g.Zones()
	return nil
}

func (t *trial) serveAgain(h *history, image string, lower, upper int) error {
	p, err := t.serve(image)
	if err != nil {
		return err
	}
	disk, err := t.connect()
	if err == nil {
		var views []view
		if views, err = look(t.g, image, disk, t.seed); err == nil {
			err = h.judge(views, lower, upper)
		}
		if err == nil {
			if err = goOn(t.g, disk, views, t.rng, t.seed); err != nil {
				err = fmt.Errorf("afterwards: %w", err)
			}
		}
	}
	return finish(disk, p, err)
}
