package device

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// What the daemon knows of a device travels to another daemon over the same disk:
// a guest that has switched its cache to write-through finds it so there. Garbage
// and another disk's state are refused, and the device works all the same.
func TestStateTravelsToAnotherDaemon(t *testing.T) {
	r := plainRig(t, 1)
	g := r.connect(frontend.Options{})
	if err := g.Client.SetConfig(driver.WritebackOffset, []byte{0}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Client.SaveState(); !errors.As(err, new(frontend.RefusedError)) {
		t.Errorf("a state was saved while a queue runs: %v", err)
	}
	if _, err := g.Queue(0).Stop(); err != nil {
		t.Fatal(err)
	}
	state, err := g.Client.SaveState()
	if err != nil {
		t.Fatalf("%v\n%s", err, r.book)
	}
	g.vanish()
	r.close()

	next := newRig(t, r.path, 1)
	larger := next.path + ".larger"
	if err := os.WriteFile(larger, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	other := newRig(t, larger, 1)
	for _, c := range []struct {
		r     *rig
		state []byte
		want  byte // writeback at the end
		log   string
	}{
		{next, nil, 1, "none of zvhost's"},
		{next, bytes.Repeat([]byte("garbage "), 100000), 1, "more than 4096 bytes"},
		{next, append(bytes.Clone(state), state...), 1, "128 bytes instead of 64"},
		{other, state, 1, "serve the same disk"},
		{next, state, 0, ""},
	} {
		g := c.r.connect(frontend.Options{})
		if _, err := g.Queue(0).Stop(); err != nil {
			t.Fatal(err)
		}
		if err := g.Client.LoadState(c.state); (err == nil) != (c.log == "") {
			t.Errorf("%d bytes: %v", len(c.state), err)
		}
		if c.log != "" {
			c.r.logged(c.log)
		}
		if b, err := g.Client.Config(driver.WritebackOffset, 1); err != nil || b[0] != c.want {
			t.Errorf("%d bytes: writeback %v, %v", len(c.state), b, err)
		}
		g.leave()
	}
	next.nextIsServed()
}
