package vm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/integration/rig"
)

// patience is how long QEMU and a guest may take for anything, on a machine that is busy.
const patience = 5 * time.Minute

// A Host is where a test keeps what it starts: files, daemons, guests.
type Host struct {
	ZVHost string // the binary

	image string // what fetch.sh prints: kernel, initrd, bin/
	dir   string
	undo  rig.Undo
	logs  []logOf
	held  int // things that held
}

type logOf struct {
	name string
	text func() string
}

func fileLog(path string) func() string {
	return func() string {
		text, _ := os.ReadFile(path)
		return strings.ReplaceAll(string(text), "\r", "")
	}
}

// NewHost makes an empty host. It fetches what guests boot from, where that is missing.
func NewHost(zvhost string) (*Host, error) {
	root, err := rig.Run("go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return nil, err
	}
	fetch := exec.Command(filepath.Join(root, "integration/vm/fetch.sh"))
	fetch.Stderr = os.Stderr
	image, err := fetch.Output()
	if err != nil {
		return nil, fmt.Errorf("integration/vm/fetch.sh: %w", err)
	}
	parent := os.TempDir()
	if len(parent) > 60 {
		parent = "/tmp" // a socket's path holds 107 bytes
	}
	dir, err := os.MkdirTemp(parent, "zvm.")
	if err != nil {
		return nil, err
	}
	h := &Host{ZVHost: zvhost, image: strings.TrimSpace(string(image)), dir: dir}
	h.undo.Add(func() error { return os.RemoveAll(dir) })
	// Should this process be killed outright, guest.sh removes the folder some day.
	return h, os.WriteFile(h.Path("owner"), fmt.Appendf(nil, "%d\n", os.Getpid()), 0o600)
}

// OK reports that one thing held.
func (h *Host) OK(format string, args ...any) {
	h.held++
	fmt.Printf("ok  "+format+"\n", args...)
}

// Path is that of a file of the host.
func (h *Host) Path(name string) string { return filepath.Join(h.dir, name) }

// Close ends and removes all that the host has.
func (h *Host) Close() error { return h.undo.Run() }

// Tails are the ends of all logs, for who has to find out what went wrong.
func (h *Host) Tails() string {
	const most = 25
	var b strings.Builder
	for _, l := range h.logs {
		lines := strings.Split(strings.TrimRight(l.text(), "\n"), "\n")
		for _, line := range lines[max(0, len(lines)-most):] {
			fmt.Fprintf(&b, "  %s: %s\n", l.name, line)
		}
	}
	return b.String()
}

// Command runs a command of zvhost that ends by itself, and returns what it printed.
func (h *Host) Command(args ...string) (string, error) { return rig.Run(h.ZVHost, args...) }

// A Daemon is a zvhost on the host, and what it was started with.
type Daemon struct {
	*rig.Daemon
	Socket string

	syncs string // where strace writes; empty: it does not
	over  bool
}

// ServeOptions are how a daemon is started.
type ServeOptions struct {
	Name  string   // its socket is NAME.sock
	File  string   // that it serves
	Args  []string // more of zvhost serve's
	Trace bool     // counts syncs, see Syncs
}

// Serve starts zvhost serve, and waits until it serves.
func (h *Host) Serve(o ServeOptions) (*Daemon, error) {
	d := &Daemon{Socket: h.Path(o.Name + ".sock")}
	words := append([]string{h.ZVHost, "serve", "--socket-path", d.Socket, "--blk-file", o.File}, o.Args...)
	if o.Trace {
		f, err := os.CreateTemp(h.dir, o.Name+".trace.")
		if err != nil {
			return nil, err
		}
		d.syncs = f.Name()
		_ = f.Close()
		// The tracer is the grandchild: what is signalled and waited for is zvhost.
		words = append([]string{filepath.Join(h.image, "bin/strace"), "-D", "-f", "-q", "-o", d.syncs, "-e", "trace=fdatasync,fsync,pwritev2"}, words...)
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	if d.Daemon, err = rig.Start(cmd); err != nil {
		return nil, err
	}
	h.undo.Add(func() error { return d.End(unix.SIGKILL) })
	h.logs = append(h.logs, logOf{"zvhost " + o.Name, d.Log})
	return d, d.Ready()
}

// End sends the daemon a signal and waits until it has ended. It may be called again.
func (d *Daemon) End(s unix.Signal) error {
	if d.over {
		return nil
	}
	d.over = true
	return d.Daemon.End(s)
}

// Syncs is how often the daemon has synced what it serves so far: fdatasync, or a write
// that is stable when it is done. strace writes each down before the daemon goes on.
func (d *Daemon) Syncs() (n int, err error) {
	if d.syncs == "" {
		return 0, errors.New("the daemon is not traced")
	}
	text, err := os.ReadFile(d.syncs)
	for line := range strings.Lines(string(text)) {
		switch {
		case strings.Contains(line, "resumed>"): // its beginning has been counted
		case strings.Contains(line, "sync("), strings.Contains(line, "RWF_DSYNC"):
			n++
		}
	}
	return n, err
}
