package vm

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"strings"

	"github.com/zvhost/zvhost/integration/rig"
)

// A Guest is a virtual machine that runs. It is for one goroutine.
type Guest struct {
	QMP *Monitor

	name, dir string
	cmd       *exec.Cmd
	agent     *agent
	conns     []*net.UnixConn
	ended     chan struct{} // closed when QEMU has ended
	status    error         // of QEMU, then
}

// gone is an error if QEMU has ended.
func (g *Guest) gone() error {
	select {
	case <-g.ended:
		return fmt.Errorf("QEMU of guest %s has ended (%v)", g.name, g.status)
	default:
		return nil
	}
}

// Ready waits until the guest takes commands. Boot has done so.
func (g *Guest) Ready() error {
	if err := g.agent.ready(); err != nil {
		return fmt.Errorf("guest %s does not boot: %w", g.name, errors.Join(err, g.gone()))
	}
	return nil
}

// Reset resets the machine, as its reset button would, and waits until the guest takes
// commands again.
func (g *Guest) Reset() error {
	action := func(reboot string) error {
		return g.QMP.Do("set-action", map[string]any{"reboot": reboot}, nil)
	}
	// A guest that resets by itself has panicked, and QEMU ends then (-no-reboot). Not so
	// while it boots: SeaBIOS resets the machine once more.
	err := action("reset")
	if err == nil {
		err = g.QMP.Do("system_reset", nil, nil)
	}
	if err == nil {
		err = g.Ready()
	}
	return errors.Join(err, action("shutdown"))
}

// Unplug takes a device out of the machine, as the guest has to agree to.
func (g *Guest) Unplug(id string) error {
	if err := g.QMP.Do("device_del", map[string]any{"id": id}, nil); err != nil {
		return err
	}
	return g.QMP.Await("DEVICE_DELETED", func(data map[string]any) bool { return data["device"] == id })
}

// Save writes the guest's state into a file, and ends QEMU.
func (g *Guest) Save(file string) error {
	if err := g.QMP.Migrate("file:" + file); err != nil {
		return err
	}
	g.Kill()
	return nil
}

// Load reads the state that Save has written, into a guest that was started with
// Incoming.
func (g *Guest) Load(file string) error {
	if err := g.QMP.Do("migrate-incoming", map[string]any{"uri": "file:" + file}, nil); err != nil {
		return err
	}
	return g.QMP.migrated()
}

// PowerOff has the guest power off, and waits until QEMU has ended well.
func (g *Guest) PowerOff() error {
	if err := g.agent.off(); err != nil {
		return err
	}
	err := rig.Await("the end of guest "+g.name, func() (bool, error) { return g.gone() != nil, nil })
	return errors.Join(err, g.status)
}

// Kill ends QEMU as if the power went.
func (g *Guest) Kill() {
	_ = g.cmd.Process.Kill()
	<-g.ended
	for _, c := range g.conns {
		_ = c.Close()
	}
	g.conns = nil
}

// complaints are what the kernel says of itself when something is very wrong.
var complaints = regexp.MustCompile(`BUG|WARNING: |Oops|blocked for more than|soft lockup|general protection`)

// Sane says whether the guest's kernel has nothing to complain about.
func (g *Guest) Sane() error {
	log, err := g.Run("dmesg")
	if err != nil {
		return err
	}
	for line := range strings.Lines(log) {
		if complaints.MatchString(line) {
			return fmt.Errorf("the kernel of guest %s complains: %s", g.name, strings.TrimSpace(line))
		}
	}
	return nil
}
