package rules

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/zvhost/zvhost"

// mayImport is the direction of the house: the packages of this module that
// each package may import, tests included (those of testOnly besides). A new
// package is entered here on purpose, and docs/architecture.md says why it
// stands where it does.
var mayImport = map[string][]string{
	"cmd/zvhost": {"internal/daemon", "vduse", "internal/control", "internal/bench", "internal/keeper", "backend", "backend/image", "backend/disk", "backend/zone", "internal/logging"},

	"internal/daemon":   {"vduse", "internal/control", "internal/failpoint", "internal/foreign", "backend", "backend/image", "backend/disk", "backend/zone", "backend/engine", "virtio", "virtio/guestmem", "virtio/transport", "vhostuser", "vhostuser/inflight", "vhostuser/handover", "internal/logging", "internal/recovery", "internal/device", "internal/vfio", "vfiouser"},
	"internal/device":   {"internal/recovery", "internal/logging", "internal/failpoint", "internal/foreign", "backend", "backend/disk", "backend/zone", "backend/engine", "virtio", "virtio/guestmem", "virtio/transport", "vhostuser/inflight"},
	"internal/vfio":     {"virtio/transport", "virtio/guestmem", "virtiopci", "vfiouser", "internal/foreign", "internal/device"}, // device: its tests'
	"internal/recovery": {"backend", "backend/disk", "backend/zone", "virtio", "virtio/guestmem", "virtio/transport", "vhostuser/inflight"},
	"internal/control":  {"backend", "backend/disk", "backend/zone", "internal/foreign"},
	"internal/logging":  {},
	"internal/testlog":  {"internal/logging"},
	"internal/keeper":   {"internal/foreign"},

	"internal/foreign":  {},
	"internal/silentfs": {}, // for tests
	"internal/loopdev":  {}, // for tests

	// It does nothing but in tests.
	"internal/failpoint": {},
	"internal/plant":     {},

	"vhostuser":          {"virtio/guestmem", "virtio/transport", "internal/failpoint", "internal/foreign", "internal/memfault", "vhostuser/inflight", "vhostuser/handover"},
	"vhostuser/inflight": {"virtio/guestmem", "internal/failpoint", "internal/foreign", "internal/memfault"},
	"vhostuser/handover": {"internal/foreign"},
	"vhostuser/frontend": {"vhostuser", "virtio/transport", "virtio/blkclient", "virtio/driver", "virtio/guestmem", "internal/foreign"},

	"virtiopci":           {}, // registers only: whoever serves it has socket and device
	"virtiopci/pcidriver": {"virtio/driver"},
	// No virtio: another device model can use it.
	"vfiouser":          {"internal/foreign"},
	"vfiouser/client":   {"vfiouser", "internal/foreign"}, // foreign: its tests, which are a server
	"vfiouser/frontend": {"vfiouser", "vfiouser/client", "virtio/blkclient", "virtio/driver", "virtiopci/pcidriver", "internal/foreign"},

	// The device is its tests' alone.
	"vduse": {"virtio/transport", "virtio/guestmem", "vhostuser/inflight", "internal/foreign", "internal/device"},

	"virtio":        {"backend/disk", "backend/zone", "virtio/guestmem", "internal/iovec", "internal/plant"},
	"virtio/driver": {"virtio/guestmem"},
	// The driver's disk, which front-ends of different doors share.
	"virtio/blkclient": {"virtio/driver", "virtio/guestmem", "internal/foreign"},
	"virtio/guestmem":  {"internal/iovec", "internal/memfault"},
	// What doors and devices share; the record lives with the protocol that specifies it.
	"virtio/transport": {"virtio/guestmem", "vhostuser/inflight"},

	"backend":                 {"backend/plain", "backend/drive", "backend/image", "backend/image/format", "internal/plant", "backend/disk", "backend/zone", "backend/engine", "internal/failpoint", "internal/iovec", "internal/memfault"},
	"backend/engine":          {"internal/uring", "internal/iovec"},
	"backend/plain":           {"backend/disk", "backend/zone", "backend/engine", "internal/plant"},
	"backend/image":           {"backend/image/format", "backend/disk", "backend/zone", "backend/engine", "internal/failpoint", "internal/memfault", "internal/plant"},
	"backend/image/format":    {"backend/disk", "backend/zone"},
	"backend/drive":           {"backend/disk", "backend/zone", "backend/engine", "internal/iovec", "internal/plant"},
	"backend/disk":            {"backend/zone", "backend/engine", "internal/iovec", "internal/memfault", "internal/plant"},
	"backend/zone":            {},
	"backend/image/imagetest": {"backend/image", "backend/image/format", "backend/disktest", "backend/disk", "backend/zone"},
	// What the tests of disks share; tests alone import it, and imagetest.
	"backend/disktest": {"backend/disk", "backend/zone", "backend/engine", "internal/iovec", "internal/testleak", "internal/zonemodel"},

	"internal/iovec":    {"internal/memfault"},
	"internal/memfault": {},

	"bench/compare": {"internal/bench"},

	"integration/rig":              {"vhostuser/frontend", "virtio/driver"}, // what those that run the binary share
	"integration/crash":            {"integration/rig"},                     // tests only
	"integration/cost":             {"integration/rig", "internal/bench"},   // bench tells its processor time
	"integration/powercut":         {"integration/rig", "vhostuser/frontend", "virtio/driver"},
	"integration/writeback":        {"integration/rig", "vhostuser/frontend", "virtio/driver"},
	"integration/drives":           {"integration/rig", "vhostuser/frontend", "virtio/driver"},
	"bench/drives":                 {"vhostuser/frontend", "virtio/driver"},
	"integration/zonestates":       {},
	"integration/vm":               {"integration/rig"},
	"integration/guests/frontends": {"integration/vm"},
	// What serves the disks, internal/device and the doors, is its tests' alone.
	"integration/suite": {"internal/zonemodel", "virtio/blkclient", "vhostuser/frontend", "vfiouser/frontend", "virtio/driver", "internal/control", "internal/device", "internal/vfio", "vfiouser"},

	// The device is its tests' alone: it measures any back-end.
	"internal/bench": {"vhostuser", "virtio/transport", "virtio/blkclient", "vhostuser/frontend", "vfiouser/frontend", "virtio/driver", "internal/uring", "internal/device"},

	"internal/powercut":  {}, // for tests
	"internal/rules":     {},
	"internal/testcount": {},
	"internal/testleak":  {},
	"internal/uring":     {},
	"internal/zonemodel": {},
}

// testOnly may be imported by the tests of any package, besides what the
// package itself may import.
var testOnly = []string{
	"internal/loopdev", "internal/powercut", "internal/silentfs", "internal/testleak", "internal/testlog", "internal/logging", "internal/zonemodel", "virtio/driver", "virtio/blkclient", "vhostuser/frontend", "vfiouser/client", "backend", "backend/disk", "backend/zone", "backend/engine", "backend/disktest", "backend/image", "backend/image/imagetest",
	"virtio/guestmem", "virtio/transport", "vhostuser", "vhostuser/inflight", "vhostuser/handover", "internal/control", "internal/failpoint", "internal/iovec", "virtiopci", "virtiopci/pcidriver",
}

// forTests are packages that tests alone import: what tests alone may import from other
// modules they may import too.
var forTests = []string{"backend/disktest", "backend/image/imagetest"}

// outside is what may be imported from other modules: by whom, nil for
// everybody, and by tests only.
var outside = map[string]struct {
	by        []string
	testsOnly bool
}{
	"golang.org/x/sys/unix":                       {},
	"github.com/spf13/cobra":                      {by: []string{"cmd/zvhost"}},
	"github.com/spf13/pflag":                      {by: []string{"cmd/zvhost"}}, // cobra's flags
	"github.com/sirupsen/logrus":                  {by: []string{"internal/daemon", "internal/device", "internal/logging", "internal/testlog", "cmd/zvhost"}},
	"github.com/coreos/go-systemd/v22/daemon":     {by: []string{"internal/daemon"}},
	"github.com/coreos/go-systemd/v22/activation": {by: []string{"internal/daemon"}},
	"github.com/vishvananda/netlink":              {by: []string{"vduse"}},
	"pgregory.net/rapid":                          {testsOnly: true},
	"github.com/google/go-cmp/cmp":                {testsOnly: true},
	"github.com/google/go-cmp/cmp/cmpopts":        {testsOnly: true},
}

// pkg is what go list -json says of a package.
type pkg struct {
	ImportPath   string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Dir          string
}

// name is the package's path inside the module.
func (p *pkg) name() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", cmd, err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < len(mayImport)/2 {
		t.Fatalf("go list found %d packages only: %s", len(all), out)
	}
	return all
}

func TestImportsPointOneWay(t *testing.T) {
	for _, p := range packages(t) {
		allowed, known := mayImport[p.name()]
		if !known {
			t.Errorf("%s: not in the table of internal/rules: enter what it may import", p.name())
			continue
		}
		for _, i := range p.Imports {
			checkImport(t, &p, i, allowed, slices.Contains(forTests, p.name()))
		}
		for _, i := range slices.Concat(p.TestImports, p.XTestImports) {
			if i != p.ImportPath {
				checkImport(t, &p, i, slices.Concat(allowed, testOnly), true)
			}
		}
	}
}

func checkImport(t *testing.T, p *pkg, path string, allowed []string, test bool) {
	t.Helper()
	first, _, _ := strings.Cut(path, "/")
	inside, ours := strings.CutPrefix(path, module+"/")
	switch {
	case ours:
		if !slices.Contains(allowed, inside) {
			t.Errorf("%s imports %s: that points the wrong way (mayImport in internal/rules)", p.name(), inside)
		}
	case !strings.Contains(first, "."): // the standard library
		if first == "C" || path == "plugin" {
			t.Errorf("%s imports %s: the binary is static and pure Go", p.name(), path)
		}
	default:
		rule, ok := outside[path]
		switch {
		case !ok:
			t.Errorf("%s imports %s: no dependency without a reason (outside in internal/rules)", p.name(), path)
		case rule.testsOnly && !test, rule.by != nil && !slices.Contains(rule.by, p.name()):
			t.Errorf("%s imports %s: that stays elsewhere (outside in internal/rules)", p.name(), path)
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range packages(t) {
		if !slices.Contains(p.GoFiles, "doc.go") {
			t.Errorf("%s: no doc.go: say what lives there, what it may import and what it implements", p.name())
		}
	}
}
