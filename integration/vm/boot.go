package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Options are what a guest is made of.
type Options struct {
	Name      string // names its files, and the guest in errors
	MemoryMiB int    // 0: 1024
	// MostMiB is how much memory there may be after some was plugged; 0: none can be.
	MostMiB int
	// Unshared memory is the guest's alone: no back-end can map it.
	Unshared bool
	CPUs     int // 0: 2
	Disks    []Disk
	Append   string // more kernel arguments
	Incoming bool   // its state comes from elsewhere, by Guest.Load
}

// kernelArguments: those of guest.sh, which says why.
const kernelArguments = "console=ttyS0 loglevel=7 panic=-1 oops=panic mitigations=off tsc=reliable no_timer_check" +
	" cryptomgr.notests random.trust_cpu=on sysctl.kernel.hung_task_timeout_secs=300"

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of what this package has put together
	}
	return string(b)
}

// arguments are QEMU's, for a guest whose files are in dir. QEMU connects to the sockets
// agent and qmp, on which this process listens already.
func (o *Options) arguments(image, dir string) []string {
	memory, most := o.MemoryMiB, ""
	if memory == 0 {
		memory = 1024
	}
	if o.MostMiB > 0 {
		most = fmt.Sprintf(",slots=2,maxmem=%dM", o.MostMiB)
	}
	machine := "q35,pic=off,pit=off"
	args := []string{
		"-name", o.Name, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", fmt.Sprint(max(o.CPUs, 1)),
		"-m", fmt.Sprintf("%dM%s", memory, most),
	}
	if !o.Unshared {
		machine += ",memory-backend=mem"
		args = append(args, "-object", fmt.Sprintf("memory-backend-memfd,id=mem,size=%dM,share=on", memory))
	}
	args = append(args, "-machine", machine,
		"-kernel", filepath.Join(image, "kernel"), "-initrd", filepath.Join(image, "initrd"),
		"-append", strings.TrimSpace(kernelArguments+" "+o.Append),
		"-chardev", "file,id=console,path="+filepath.Join(dir, "console"), "-serial", "chardev:console",
		"-chardev", "socket,id=agent,path="+filepath.Join(dir, "agent"),
		"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=zvhost",
		"-chardev", "socket,id=qmp,path="+filepath.Join(dir, "qmp"), "-qmp", "chardev:qmp")
	if o.Incoming {
		args = append(args, "-incoming", "defer")
	}
	for i := range o.Disks {
		args = append(args, o.Disks[i].arguments(i)...)
	}
	return args
}

// Boot starts a guest, and waits until it takes commands.
func (h *Host) Boot(o Options) (*Guest, error) {
	g, err := h.Start(o)
	if err != nil {
		return nil, err
	}
	return g, g.Ready()
}

// Start starts a guest. Its monitor answers when Start returns; it boots meanwhile.
func (h *Host) Start(o Options) (g *Guest, err error) {
	if o.CPUs == 0 {
		o.CPUs = 2
	}
	dir := h.Path(o.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	var listeners [2]*net.UnixListener
	for i, name := range []string{"agent", "qmp"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
		if err != nil {
			return nil, err
		}
		defer l.Close()
		listeners[i] = l
	}
	said, err := os.Create(filepath.Join(dir, "qemu.log"))
	if err != nil {
		return nil, err
	}
	defer said.Close()
	g = &Guest{name: o.Name, dir: dir, ended: make(chan struct{})}
	g.cmd = exec.Command(filepath.Join(h.image, "bin/qemu-system-x86_64"), o.arguments(h.image, dir)...)
	g.cmd.Stdout, g.cmd.Stderr = said, said
	// Should this process be killed outright. Main stays on one thread for it.
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.cmd.Start(); err != nil {
		return nil, err
	}
	h.undo.Add(func() error { g.Kill(); return nil })
	h.logs = append(h.logs, logOf{"QEMU " + o.Name, fileLog(said.Name())}, logOf{"console of " + o.Name, fileLog(filepath.Join(dir, "console"))})
	go func() {
		g.status = g.cmd.Wait()
		close(g.ended)
		for _, l := range listeners {
			_ = l.Close() // nobody will come any more
		}
	}()
	var conns [2]*net.UnixConn
	for i, l := range listeners {
		if err := l.SetDeadline(time.Now().Add(patience)); err != nil {
			return nil, err
		}
		if conns[i], err = l.AcceptUnix(); err != nil {
			return nil, fmt.Errorf("QEMU of guest %s does not connect: %w", o.Name, errors.Join(err, g.gone()))
		}
		g.conns = append(g.conns, conns[i])
	}
	g.agent = newAgent(conns[0])
	g.QMP, err = newMonitor(conns[1])
	return g, err
}
