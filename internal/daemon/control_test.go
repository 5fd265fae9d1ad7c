package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/internal/control"
	"github.com/zvhost/zvhost/internal/testlog"
)

// The control socket is there when it was asked for, for its owner only, takes
// the place of a stale one, and goes with the daemon; clients that are connected
// then are let go.
func TestControlSocket(t *testing.T) {
	c := socketConfig(t)
	c.ControlPath = filepath.Join(filepath.Dir(c.SocketPath), "c")
	c.Faults = someFaults(t, "flush,once")
	for range 2 {
		leaveStale(t, c.ControlPath)
		d := startDaemon(t, c)
		st, err := os.Stat(c.ControlPath)
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", st.Mode(), err)
		}
		a, err := control.Call(c.ControlPath, control.Request{Command: control.FaultList})
		if err != nil || len(a.Faults) != 1 {
			t.Errorf("%+v, %v", a, err)
		}
		a, err = control.Call(c.ControlPath, control.Request{Command: control.SetState, Zones: "3", State: "offline"})
		if err != nil || a.Zones != 1 {
			t.Errorf("%+v, %v", a, err)
		}
		for _, word := range []string{"fault 1: flush,once", "zones 3: offline"} {
			if !strings.Contains(d.book.String(), word) {
				t.Errorf("no %q in the log:\n%s", word, d.book)
			}
		}
		d.end()
		if _, err := os.Lstat(c.ControlPath); err == nil {
			t.Error("the control socket is still there")
		}
	}
	for want, change := range map[string]func(c *Config){
		"not a socket: give another path":             func(c *Config) { c.ControlPath = c.BlkFile },
		"create it, or choose another --control-path": func(c *Config) { c.ControlPath = "/none/c" },
		`--fault: `: func(c *Config) { c.Faults = someFaults(t, "read,zone=99") },
	} {
		bad := c
		change(&bad)
		log, _ := testlog.New()
		if err := Run(t.Context(), bad, log); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, want %q", err, want)
		}
		if _, err := os.Lstat(c.SocketPath); err == nil {
			t.Error("the socket was left behind")
		}
	}
}

func someFaults(t testing.TB, lines ...string) (faults []disk.Fault) {
	t.Helper()
	for _, line := range lines {
		f, err := disk.ParseFault(line)
		if err != nil {
			t.Fatal(err)
		}
		faults = append(faults, f)
	}
	return faults
}
