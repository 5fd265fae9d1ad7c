package crash

import (
	"fmt"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/integration/rig"
)

// build builds zvhost as it is shipped, or with a bug that a build tag plants.
func build(t *testing.T, tag string) (binary string) {
	t.Helper()
	return buildPlanted(t, tag, "")
}

// buildPlanted builds a zvhost with a bug (internal/plant).
func buildPlanted(t *testing.T, tag, bug string) (binary string) {
	t.Helper()
	binary, err := rig.Build(t.TempDir(), tag, bug)
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// launch starts zvhost on the image of dir.
func launch(binary, dir string) (*rig.Daemon, error) {
	// Names inside dir, for a socket's may not be long.
	return launchAs(binary, dir, nil, "serve", "--socket-path", "s", "--blk-file", "disk.zvh", "--queues", fmt.Sprint(queues))
}

// launchAs starts a command of zvhost that serves the image of dir.
func launchAs(binary, dir string, env []string, args ...string) (*rig.Daemon, error) {
	cmd := exec.Command(binary, args...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), env...)
	return rig.Start(cmd)
}

// kill ends it with SIGKILL, and returns when nothing of it runs any more.
func kill(p *rig.Daemon) { _ = p.End(unix.SIGKILL) }

// restart starts zvhost anew after a kill: now and then it is killed while it
// starts, and started once more. It returns how often that was.
func restart(binary, dir string, rng interface{ IntN(int) int }) (p *rig.Daemon, killed int, err error) {
	for ; rng.IntN(6) == 0; killed++ {
		p, err := launch(binary, dir)
		if err != nil {
			return nil, killed, err
		}
		time.Sleep(time.Duration(rng.IntN(12_000)) * time.Microsecond)
		kill(p)
	}
	if p, err = launch(binary, dir); err == nil {
		err = p.Ready()
	}
	return p, killed, err
}
