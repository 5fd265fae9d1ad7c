package image

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/zone"
)

// A Finding is one thing that is wrong with an image.
type Finding = format.Finding

// ErrNotImage is what opening a file that is no zoned image as one returns.
var ErrNotImage = format.ErrNotImage

// mostFindings is how many findings of one kind are listed: an image has up to MaxZones
// zones, and damage is rarely that of one.
const mostFindings = 20

// Findings are listed up to mostFindings of a kind, and counted from there on.
type findings struct {
	list []Finding
	more map[string]int // not listed, by kind
}

func (l *findings) add(kind string, f Finding) {
	if l.more == nil {
		l.more = map[string]int{}
	}
	if l.more[kind]++; l.more[kind] <= mostFindings {
		l.list = append(l.list, f)
	}
}

// all is the list, with a line for what is not in it.
func (l *findings) all() []Finding {
	list := l.list
	for _, kind := range slices.Sorted(maps.Keys(l.more)) {
		if n := l.more[kind] - mostFindings; n > 0 {
			list = append(list, Finding{Where: kind, What: fmt.Sprintf("and %d more like these", n)})
		}
	}
	return list
}

// Check verifies the image at path and returns what is wrong with it, nothing
// when it is whole. It writes nothing. It fails when it cannot look: the file
// is no image, cannot be read, or is in use by a daemon.
func Check(path string) ([]Finding, error) {
	kind, err := Probe(path)
	if err != nil {
		return nil, err
	}
	if kind != disk.KindImage {
		return nil, fmt.Errorf("%s: %w", path, format.ErrNotImage)
	}
	if err := CheckInFile(path); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, disk.CannotOpen("image", path, err)
	}
	defer f.Close()
	if err := disk.LockFile(f, true); err != nil {
		return nil, fmt.Errorf("image %s: %w", path, err)
	}
	c := &checker{f: f}
	if err := c.run(); err != nil {
		return nil, fmt.Errorf("image %s: %w", path, err)
	}
	return c.findings.all(), nil
}

type checker struct {
	f        *os.File
	findings findings
}

func (c *checker) found(where, text string, args ...any) {
	c.findings.add(where, Finding{Where: where, What: fmt.Sprintf(text, args...)})
}

func (c *checker) run() error {
	l, err := c.supers()
	if l == nil || err != nil {
		return err
	}
	size, err := disk.SizeOf(int(c.f.Fd()))
	if err != nil {
		return err
	}
	if size < l.FileBytes() {
		// It may be the superblock that is wrong, and then all else would be looked for in
		// the wrong place.
		c.found("file", "%d bytes long, but the zones need %d: it was cut short", size, l.FileBytes())
		return nil
	}
	if err := l.CheckTables(c.f); err != nil {
		c.found("file", "%v", err)
		return nil
	}
	c.faults(l)
	s, findings, err := format.ReadState(c.f, l.UUID)
	// One torn state block is what a power cut during its write leaves, and
	// the next open mends it.
	if err != nil {
		for _, f := range findings {
			f.Remedy = remedyCommitted
			c.findings.add(f.Where, f)
		}
		if len(findings) == 0 {
			c.found("state blocks", "%v", err)
		}
		return nil
	}
	committed := c.committed(l, s.Clean)
	live := c.live(l, &s)
	for i, w := range live {
		if s.Clean && committed != nil && w != committed[i] {
			c.findings.add("zones", Finding{Where: fmt.Sprintf("zone %d", i), What: fmt.Sprintf("the live table says %v with %d sectors written, the committed one %v with %d, though the image was closed cleanly",
				w.State(), w.Written(), committed[i].State(), committed[i].Written())})
		}
	}
	switch {
	case live != nil:
		c.zones(l, live)
	case committed != nil:
		// One commit may show more zones open than there can be at a time.
		c.zones(l, l.AllPowerCycled(committed))
	}
	return nil
}

// supers checks both superblocks and returns what they say, nil when neither
// can be read, or nobody knows which of two is right.
func (c *checker) supers() (*format.Layout, error) {
	var good [2]*format.Layout
	for i, off := range []int64{format.SuperOff, format.SuperCopyOff} {
		where := format.SuperNames[i]
		b := make([]byte, format.SuperBytes)
		if n, err := c.f.ReadAt(b, off); n < len(b) {
			c.found(where, "cannot be read: %v", err)
			continue
		}
		l, err := format.DecodeSuper(b)
		if err != nil {
			c.found(where, "%v", err)
			continue
		}
		good[i] = l
	}
	switch {
	case good[0] == nil:
		return good[1], nil
	case good[1] != nil && *good[0] != *good[1]:
		return c.differing(good)
	}
	return good[0], nil
}

// committed checks the committed table. Outside a clean image one damaged copy
// of a block is what a power cut leaves.
func (c *checker) committed(l *format.Layout, clean bool) []zone.Entry {
	words, _, findings, err := format.ReadCommitted(c.f, l)
	if err != nil || clean {
		for _, f := range findings {
			c.findings.add("committed zone table", f)
		}
	}
	if err != nil {
		c.found("committed zone table", "%v", err)
		return nil
	}
	return words
}

// live checks the live table, or returns nil when it does not count.
func (c *checker) live(l *format.Layout, s *format.StateBlock) []zone.Entry {
	here, err := format.PlaceOf(c.f)
	if err != nil {
		c.found("file", "%v", err)
		return nil
	}
	if !s.TrustsLive(here) {
		return nil
	}
	words, err := format.ReadLive(c.f, l)
	if err != nil {
		c.found("live zone table", "%v", err)
		return nil
	}
	whole := true
	for i, w := range words {
		if err := w.Verify(&l.Geometry, i); err != nil {
			f := Finding{Where: fmt.Sprintf("live zone table, zone %d", i), What: err.Error()}
			if !s.Clean {
				f.Remedy = remedyZones
			}
			c.findings.add("live zone table", f)
			whole = false
		}
	}
	if !whole {
		return nil
	}
	return words
}

// zones checks what the table says of the disk as a whole.
func (c *checker) zones(l *format.Layout, words []zone.Entry) {
	r := zone.Resources{}
	for _, w := range words {
		_ = r.Move(zone.Empty, w.State()) // without limits it counts only
	}
	if l.MaxOpen != 0 && r.Open > l.MaxOpen {
		c.found("zones", "%d are open, but at most %d may be", r.Open, l.MaxOpen)
	}
	if l.MaxActive != 0 && r.Active > l.MaxActive {
		c.found("zones", "%d are active, but at most %d may be", r.Active, l.MaxActive)
	}
	if _, err := unix.Seek(int(c.f.Fd()), l.DataOff, unix.SEEK_DATA); err != nil && !errors.Is(err, unix.ENXIO) {
		c.found("data", "cannot be read: %v", err)
	}
}

// faults checks the block of faults.
func (c *checker) faults(l *format.Layout) {
	if _, err := format.FaultsIn(c.f, l); err != nil {
		c.found("faults", "%v", err)
	}
}
