package virtio_test

import (
	"testing"

	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
)

// What happens to a device, for tests of its cache mode, and whether it is
// write-through after that.
type cacheStep struct {
	// "features" is SET_FEATURES of arg (and VERSION_1); "show" a read of the field, which
	// must say what the device does; "write" a write of arg to it; "reset"; "front-end"
	// another one; "ring" the start of one, "midstream" of one that was used before;
	// "stop" the stop of the last one; "told" what is known from elsewhere, 0
	// write-through.
	do      string
	arg     uint64
	through bool
}

const (
	flush, wce = driver.BlkFlush, driver.BlkConfigWCE
	both       = flush | wce
	wt, wb     = true, false
)

func (s cacheStep) take(t *testing.T, b *virtio.Blk) {
	t.Helper()
	var err error
	switch s.do {
	case "features":
		err = b.SetFeatures(s.arg | driver.FeatureVersion1)
	case "show":
		var field [1]byte
		if err = b.ReadConfig(field[:], driver.WritebackOffset); (field[0] == 0) != b.WriteThrough() {
			t.Errorf("writeback is shown as %d, and write-through is %v", field[0], b.WriteThrough())
		}
	case "write":
		err = b.WriteConfig([]byte{byte(s.arg)}, driver.WritebackOffset)
	case "reset":
		b.Reset()
	case "front-end":
		b.Reset()
		b.BeginFrontEnd()
	case "ring", "midstream":
		b.BeginRing(s.do == "midstream")
	case "stop":
		b.EndRings()
	case "told":
		b.RememberCacheMode(s.arg == 0)
	default:
		t.Fatalf("what is %q?", s.do)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// "Device Initialization" and "Device Operation", and the rule of cacheMode: what the
// cache mode is after each step. "show" checks that the field says so.
func TestCacheMode(t *testing.T) {
	boot := []cacheStep{{"show", 0, wb}, {"features", both, wb}, {"ring", 0, wb}}
	after := func(steps ...cacheStep) []cacheStep { return append(boot[:len(boot):len(boot)], steps...) }
	for name, steps := range map[string][]cacheStep{
		// What a negotiation means.
		"a boot is write-back":                  after(cacheStep{"show", 0, wb}),
		"neither: write-through (case 1)":       {{"features", 0, wt}, {"reset", 0, wb}},
		"FLUSH only: write-back":                {{"features", flush, wb}, {"ring", 0, wb}, {"show", 0, wb}},
		"CONFIG_WCE only: MUST be 0":            {{"features", wce, wt}, {"show", 0, wt}},
		"both: write-back until told":           after(cacheStep{"write", 0, wt}, cacheStep{"show", 0, wt}, cacheStep{"write", 1, wb}, cacheStep{"show", 0, wb}),
		"the firmware before took neither":      {{"show", 0, wb}, {"features", 0, wt}, {"ring", 0, wt}, {"stop", 0, wt}, {"features", both, wb}, {"ring", 0, wb}},
		"repeated SET_FEATURES keeps a choice":  after(cacheStep{"write", 0, wt}, cacheStep{"features", both | driver.BlkMQ, wt}),
		"repeated, CONFIG_WCE only":             {{"features", wce, wt}, {"write", 1, wb}, {"features", wce, wb}},
		"written before features arrive":        {{"write", 0, wt}, {"features", both, wt}, {"ring", 0, wt}},
		"1 written before features arrive":      {{"write", 0, wt}, {"write", 1, wt}, {"features", both, wt}},
		"1 written by who took neither":         {{"features", 0, wt}, {"write", 1, wt}, {"show", 0, wt}, {"features", both, wt}},
		"1 written by who took FLUSH only":      {{"write", 0, wt}, {"features", flush, wt}, {"write", 1, wb}},
		"0 written by who did not take the bit": {{"features", flush, wb}, {"write", 0, wt}, {"features", both, wt}},

		// What was shown or set stays.
		"shown after the firmware took neither":   {{"show", 0, wb}, {"features", 0, wt}, {"show", 0, wt}, {"features", both, wt}, {"show", 0, wt}, {"write", 1, wb}},
		"never asked, shown while neither":        {{"features", 0, wt}, {"show", 0, wt}, {"features", both, wt}, {"ring", 0, wt}, {"show", 0, wt}},
		"shown, then FLUSH only":                  {{"features", 0, wt}, {"show", 0, wt}, {"features", flush, wt}, {"show", 0, wt}},
		"set, then the driver comes anew":         after(cacheStep{"write", 0, wt}, cacheStep{"stop", 0, wt}, cacheStep{"features", both, wt}, cacheStep{"ring", 0, wt}),
		"set, then a reset":                       after(cacheStep{"write", 0, wt}, cacheStep{"stop", 0, wt}, cacheStep{"reset", 0, wt}, cacheStep{"features", both, wt}, cacheStep{"ring", 0, wt}),
		"set, a reset, and asked again":           after(cacheStep{"write", 0, wt}, cacheStep{"stop", 0, wt}, cacheStep{"reset", 0, wt}, cacheStep{"show", 0, wt}, cacheStep{"features", both, wt}),
		"set, a reset, and FLUSH only":            after(cacheStep{"write", 0, wt}, cacheStep{"reset", 0, wt}, cacheStep{"features", flush, wt}),
		"set, a reset, and set back":              after(cacheStep{"write", 0, wt}, cacheStep{"reset", 0, wt}, cacheStep{"features", both, wt}, cacheStep{"write", 1, wb}, cacheStep{"reset", 0, wb}),
		"a reset of one that was never shown it":  after(cacheStep{"stop", 0, wb}, cacheStep{"reset", 0, wb}, cacheStep{"features", both, wb}, cacheStep{"ring", 0, wb}),
		"CONFIG_WCE only, then both":              {{"show", 0, wb}, {"features", wce, wt}, {"features", both, wt}},
		"the front-end comes anew without asking": after(cacheStep{"write", 0, wt}, cacheStep{"front-end", 0, wt}, cacheStep{"features", both, wt}, cacheStep{"ring", 0, wt}),
		"another front-end":                       after(cacheStep{"write", 0, wt}, cacheStep{"front-end", 0, wt}, cacheStep{"show", 0, wb}, cacheStep{"features", both, wb}, cacheStep{"ring", 0, wb}),

		// What is not known.
		"nobody has asked":                     {{"features", both, wb}, {"ring", 0, wt}, {"show", 0, wt}},
		"nobody has asked before features":     {{"features", both, wb}, {"show", 0, wt}, {"ring", 0, wt}},
		"nobody has asked, set back":           {{"features", both, wb}, {"ring", 0, wt}, {"write", 1, wb}, {"stop", 0, wb}, {"ring", 0, wb}},
		"midstream":                            {{"show", 0, wb}, {"features", both, wb}, {"ring", 0, wb}, {"midstream", 0, wt}, {"show", 0, wt}},
		"midstream, FLUSH only":                {{"features", flush, wb}, {"midstream", 0, wt}},
		"midstream, known":                     {{"told", 1, wb}, {"features", both, wb}, {"midstream", 0, wb}, {"show", 0, wb}},
		"midstream, known to be write-through": {{"show", 0, wb}, {"told", 0, wt}, {"features", both, wt}, {"midstream", 0, wt}, {"show", 0, wt}},
		"known, and then another guest's":      {{"told", 1, wb}, {"features", both, wb}, {"midstream", 0, wb}, {"stop", 0, wb}, {"midstream", 0, wt}},
		"told does not weaken":                 after(cacheStep{"write", 0, wt}, cacheStep{"told", 1, wt}, cacheStep{"show", 0, wt}),
		"asked once the rings have stopped":    {{"told", 0, wt}, {"features", both, wt}, {"midstream", 0, wt}, {"stop", 0, wt}, {"reset", 0, wt}, {"show", 0, wt}},
		"set before asked":                     {{"write", 0, wt}, {"show", 0, wt}, {"features", both, wt}},
		"another front-end comes in midstream": after(cacheStep{"front-end", 0, wb}, cacheStep{"show", 0, wb}, cacheStep{"features", both, wb}, cacheStep{"midstream", 0, wt}),
		"another front-end has not asked":      after(cacheStep{"front-end", 0, wb}, cacheStep{"features", both, wb}, cacheStep{"ring", 0, wt}),
		// It has no field, and SHOULD assume write-back ("Device Initialization", the driver's rules).
		"another front-end has not asked, FLUSH only": after(cacheStep{"front-end", 0, wb}, cacheStep{"features", flush, wb}, cacheStep{"ring", 0, wb}),
		"another front-end, neither, then a set":      after(cacheStep{"front-end", 0, wb}, cacheStep{"features", 0, wt}, cacheStep{"show", 0, wt}, cacheStep{"features", both, wt}, cacheStep{"write", 1, wb}),
	} {
		t.Run(name, func(t *testing.T) {
			for _, disk := range []*fakeDisk{plainDisk(), zonedDisk()} {
				b, err := virtio.NewBlk(disk, virtio.BlkOptions{Queues: 1})
				if err != nil {
					t.Fatal(err)
				}
				for i, s := range steps {
					if disk.info.Zoned != nil && s.do == "features" {
						s.arg |= driver.BlkZoned
					}
					if s.take(t, b); b.WriteThrough() != s.through {
						t.Fatalf("step %d, %s %#x: write-through is %v", i, s.do, s.arg, b.WriteThrough())
					}
				}
				// It is the same in another process.
				next, err := virtio.NewBlk(disk, virtio.BlkOptions{Queues: 1})
				if err != nil {
					t.Fatal(err)
				}
				next.RestoreCacheMode(b.CacheMode())
				if next.CacheMode() != b.CacheMode() || next.WriteThrough() && !b.WriteThrough() {
					t.Errorf("cache mode %#x becomes %#x", b.CacheMode(), next.CacheMode())
				}
			}
		})
	}
}

// SET_FEATURES of nothing is no driver's: the front-end that asks then has its guest
// find a write-back cache. Should it be a driver's after all, that one takes writes for
// stable, and they are.
func TestNoFeaturesAreNoDriver(t *testing.T) {
	b, err := virtio.NewBlk(plainDisk(), virtio.BlkOptions{Queues: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.SetFeatures(0); err != nil {
		t.Fatal(err)
	}
	var field [1]byte
	if err := b.ReadConfig(field[:], driver.WritebackOffset); err != nil || field[0] != 1 || !b.WriteThrough() {
		t.Errorf("writeback %d, write-through %v, %v", field[0], b.WriteThrough(), err)
	}
	if cacheStep.take(cacheStep{"features", both, wb}, t, b); b.WriteThrough() || b.BeginRing(false) {
		t.Error("it is write-through with features of a driver")
	}
}

// To look at the space for other ends shows nothing.
func TestConfigSpaceShowsNothing(t *testing.T) {
	b, err := virtio.NewBlk(plainDisk(), virtio.BlkOptions{Queues: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.SetFeatures(driver.FeatureVersion1); err != nil {
		t.Fatal(err)
	}
	was := b.CacheMode()
	if b.ConfigSpace(); b.CacheMode() != was {
		t.Error("it counts as shown")
	}
	var other [driver.WritebackOffset]byte
	if err := b.ReadConfig(other[:], 0); err != nil || b.CacheMode() != was {
		t.Error("what does not cover the field counts as shown")
	}
}
