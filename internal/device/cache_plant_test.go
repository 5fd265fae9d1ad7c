package device

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The sequences of TestCacheModeInRandomSequences, which are the same each time, find a bug
// that is planted (internal/plant), and more than one of them does: a change
// of what a sequence draws changes all that come behind.
func TestPlantedCacheModeIsFound(t *testing.T) {
	const least = 3
	binary := filepath.Join(t.TempDir(), "daemon.test")
	build := exec.Command("go", "test", "-c", "-tags", "zvhost_plant",
		"-ldflags", "-X github.com/zvhost/zvhost/internal/plant.bug=writeback", "-o", binary, ".")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	out, err := exec.Command(binary, "-test.run=^TestCacheModeInRandomSequences$", "-test.timeout=5m").CombinedOutput()
	found := strings.Count(string(out), "a write was answered before it was stored")
	if err == nil || found < least {
		t.Errorf("found %d times, want %d at least: %v\n%s", found, least, err, out)
	}
	t.Logf("found %d times in %d sequences", found, len(cacheSeeds)*len(cacheRigs))
}
