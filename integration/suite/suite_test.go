package suite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/zvhost/zvhost/internal/zonemodel"
	"github.com/zvhost/zvhost/virtio/driver"
)

// Every request in every state with every kind of argument.
func TestTable(t *testing.T) {
	var mu sync.Mutex
	total := new(Tally)
	t.Run("disks", func(t *testing.T) {
		for name, s := range here() {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				tally := RunTable(t, target(), s)
				t.Logf("%v", tally)
				mu.Lock()
				defer mu.Unlock()
				total.Add(tally)
			})
		}
	})
	t.Logf("in all: %v", total)
	if total.Cases == 0 {
		t.Error("nothing was tried")
	}
}

// The same as a PCI function over vfio-user: every setup, and each request of the table in one
// in doorOneIn of its kinds of argument.
func TestTableOverVFIOUser(t *testing.T) {
	if elsewhere() {
		return // what is served there has the door that it has
	}
	for name, s := range setups {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tally := RunTable(t, func(s Setup) (*Served, error) {
				served, err := overVFIO(s)
				if err == nil {
					served.OneIn = *doorOneInFlag
				}
				return served, err
			}, s)
			t.Logf("%v", tally)
			if tally.Cases == 0 {
				t.Error("nothing was tried")
			}
		})
	}
}

// The same on every engine. Disks are slower than memory, so they get two of the
// setups and less of those; all of it is for make robust.
func TestTableOnEachEngine(t *testing.T) {
	if elsewhere() {
		return // what is served there has the engine that it has
	}
	for name, w := range ways {
		for disk, s := range setups {
			if *engineOneInFlag > 1 && disk != "512" && disk != "4096" {
				continue
			}
			t.Run(name+"/"+disk, func(t *testing.T) {
				t.Parallel()
				tally := RunTable(t, func(s Setup) (*Served, error) {
					served, err := w.serve(s)
					if err == nil {
						served.OneIn = *engineOneInFlag
					}
					return served, err
				}, s)
				t.Logf("%v", tally)
				if tally.Cases == 0 {
					t.Error("nothing was tried")
				}
			})
		}
	}
}

// Scripts that once found something, or show a case that is hard to come by, and
// the one of -script.
func TestScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/scripts/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	if elsewhere() {
		paths = nil // they are for disks of their own
	}
	if *scriptFlag != "" {
		paths = append(paths, *scriptFlag)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			c, err := ParseScript(string(text))
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Play(target()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A script reads as it was written, and one that is wrong says where.
func TestScriptText(t *testing.T) {
	c := &Script{Setup: setups["512"], Steps: []Step{
		{Ops: []*Op{{Queue: 3, Type: driver.TypeZoneAppend, Sector: 256, Bytes: 4096}, {Type: 77, Sector: 1}}},
		{Zone: 4, To: zonemodel.ReadOnly},
		{Ops: []*Op{{Type: driver.TypeSecureErase, Sector: 256, Bytes: 65536, Flags: 1}}},
		{Zone: 4, To: zonemodel.Empty},
	}}
	got, err := ParseScript("# a script\n\n" + c.String())
	if err != nil || got.String() != c.String() {
		t.Errorf("%v\n%v, want\n%v", err, got, c)
	}
	disk := setups["512"].String() + "\n"
	for text, want := range map[string]string{
		"":                           "no line \"disk",
		"disk size=3":                "line 1: \"size=3\"",
		"disk zone=x":                "line 1: \"zone=x\"",
		"disk block=99999999999":     "line 1",
		disk + "append 256 4096":     "line 2: \"append 256 4096\" is no request",
		disk + "q0 apend 256 4096":   "no request called \"apend\"",
		disk + "q0 append x 4096":    "\"x\" is no number",
		disk + "q0 append 1 2 3 4":   "is no request",
		disk + "qx append 1 2":       "\"x\" is no number",
		disk + "q0 type-z 1 2":       "\"z\" is no number",
		disk + "q0 append 1 2 flags": "\"flags\" is no number",
		disk + "state 1 closed":      "no zone can be put",
		disk + "state closed":        "want \"state ZONE STATE\"",
	} {
		if _, err := ParseScript(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v does not say %q", text, err, want)
		}
	}
}

// open opens a disk of the suite's own.
func open(t *testing.T, setup Setup) *Session {
	t.Helper()
	served, err := ownDaemon(setup)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(served, setup)
	if err != nil {
		t.Fatal(errors.Join(err, served.Close()))
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// What happens behind the suite's back is noticed: a suite that cannot fail shows
// nothing.
func TestNotices(t *testing.T) {
	block := make([]byte, 512)
	flush := func() *Op { return &Op{Type: driver.TypeFlush} }
	for name, c := range map[string]struct {
		behind func(s *Session) error
		look   func(s *Session) error
		want   string
	}{
		"a write pointer": {
			func(s *Session) error { return s.disk.Queue(0).Write(block, 256) },
			func(s *Session) error { return s.Batch(flush()) }, "zone 2 is {Start:256",
		},
		"a state": {
			func(s *Session) error { return s.disk.Queue(0).Zone(driver.TypeZoneOpen, 384) },
			func(s *Session) error { return s.Batch(flush()) }, "State:empty}, not",
		},
		"a state that only the file shows": {
			func(s *Session) error { return s.disk.Queue(0).Zone(driver.TypeZoneFinish, 384) },
			func(s *Session) error { return s.Compare() }, "out of band",
		},
		"data that a request changed": {
			func(s *Session) error { return s.disk.Queue(0).Write(block, 8) },
			func(s *Session) error { return s.Batch(&Op{Type: driver.TypeOut, Sector: 16, Bytes: 512}) }, "sector 8 does not hold",
		},
		"data that is read": {
			func(s *Session) error { return s.disk.Queue(0).Write([]byte(strings.Repeat("x", 512)), 9) },
			func(s *Session) error { return s.Batch(&Op{Type: driver.TypeIn, Sector: 8, Bytes: 1024}) }, "sector 9 does not hold",
		},
		"what a report says": {
			func(s *Session) error { return s.disk.Queue(0).Zone(driver.TypeZoneOpen, 256) },
			func(s *Session) error {
				return s.Batch(&Op{Type: driver.TypeZoneReport, Sector: 256, Bytes: 128})
			}, "zone 2 is {Capacity",
		},
		"data of a zone whose request was refused": {
			func(s *Session) error { return s.disk.Queue(0).Write([]byte(strings.Repeat("x", 512)), 9) },
			func(s *Session) error {
				s.Patient = true
				return errors.Join(s.Batch(&Op{Type: driver.TypeOut, Sector: 0, Bytes: 511}), s.Verify())
			}, "sector 9 does not hold",
		},
		"an answer": {
			func(s *Session) error {
				s.served.tamper = func(o *Op) { o.status = zonemodel.InvalidCmd }
				return nil
			},
			func(s *Session) error { return s.Batch(flush()) }, "wanted OK",
		},
		"where an append landed": {
			func(s *Session) error {
				s.served.tamper = func(o *Op) { o.at++ }
				return nil
			},
			func(s *Session) error { return s.Batch(&Op{Type: driver.TypeZoneAppend, Sector: 256, Bytes: 512}) }, "wanted OK at 256",
		},
		"more than there is in the used ring": {
			func(s *Session) error {
				s.served.tamper = func(o *Op) { o.written = o.most + 1 }
				return nil
			},
			func(s *Session) error { return s.Batch(flush()) }, "2 bytes were written",
		},
		"the order of appends": {
			func(s *Session) error {
				s.served.tamper = func(o *Op) { o.at = 256 }
				return nil
			},
			func(s *Session) error {
				return s.Batch(&Op{Type: driver.TypeZoneAppend, Sector: 256, Bytes: 512}, &Op{Queue: 1, Type: driver.TypeZoneAppend, Sector: 256, Bytes: 512})
			}, "no order",
		},
	} {
		for _, sample := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, samples %t", name, sample), func(t *testing.T) {
				s := open(t, setups["512"])
				s.served.Sample = sample
				if err := s.Batch(flush()); err != nil {
					t.Fatal(err)
				}
				if err := s.Batch(&Op{Type: driver.TypeOut, Sector: 0, Bytes: 32 * 512}); err != nil {
					t.Fatal(err)
				}
				if err := c.behind(s); err != nil {
					t.Fatal(err)
				}
				err := c.look(s)
				var d *Divergence
				if !errors.As(err, &d) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v does not say %q", err, c.want)
				}
			})
		}
	}
}
