package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/logging"
	"github.com/zvhost/zvhost/vduse"
	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/transport"
)

const (
	virtioVendor = 0x1af4 // as PCI devices have it
	// vduseRing is how many descriptors a ring has. Linux's driver takes as many as there may be,
	// and has 64 MiB for the data of all requests in flight.
	vduseRing = 256
	// vdusePatience is how long a process that has had the device before may take to end.
	vdusePatience = 10 * time.Second
)

// A vduseDoor serves the device to the host's own kernel.
type vduseDoor struct {
	name    string
	dir     string // of the state
	made    bool   // this process has made the device
	session *vduse.Session
	log     *logrus.Logger
	lines   *logging.Lines
}

// openVDUSE makes the kernel's device, or goes on with the one that another process has made.
func openVDUSE(c *Config, dev transport.Device, log *logrus.Logger) (*vduseDoor, error) {
	d := &vduseDoor{name: c.VDUSE, dir: c.vduseDir(), log: log, lines: logging.NewLines(log)}
	opt := vduse.Options{
		Space:    virtio.BlkConfigBytes,
		Attached: func() bool { return vduse.Attached(d.name) },
		Log:      d.logLine,
	}
	node, err := openNode(d.name)
	if err == nil {
		if d.session, err = vduse.Resume(node, dev, d.dir, d.name, opt); err == nil {
			log.Infof("VDUSE device %s: goes on", d.name)
			return d, nil
		}
		err = errors.Join(fmt.Errorf("VDUSE device %s: %w", d.name, err), node.Close())
		if !errors.Is(err, vduse.ErrNoState) || vduse.Attached(d.name) {
			return nil, err
		}
		// A process died when it had just made the device: nobody has used it.
		if err := vduse.Destroy(d.name); err != nil {
			return nil, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return d, d.make(dev, opt)
}

// make makes the device and its session.
func (d *vduseDoor) make(dev transport.Device, opt vduse.Options) error {
	space := make([]byte, virtio.BlkConfigBytes)
	if err := dev.ReadConfig(space, 0); err != nil {
		return err
	}
	node, err := vduse.Create(&vduse.Config{
		Name: d.name, DeviceID: virtioBlock, VendorID: virtioVendor, Features: vduse.Features(dev),
		Queues: dev.Queues(), QueueSize: vduseRing, Space: space,
	})
	if errors.Is(err, vduse.ErrNoVDUSE) {
		return lasting(err)
	}
	if err != nil {
		return err
	}
	d.made = true
	if d.session, err = vduse.New(node, dev, d.dir, d.name, vduseRing, opt); err != nil {
		return errors.Join(err, node.Close(), d.giveUp())
	}
	return nil
}

// openNode opens the device's node, once the process that has had it before has ended.
func openNode(name string) (*vduse.Node, error) {
	for until := time.Now().Add(vdusePatience); ; time.Sleep(50 * time.Millisecond) {
		node, err := vduse.Open(name)
		if !errors.Is(err, unix.EBUSY) {
			return node, err
		}
		if time.Now().After(until) {
			return nil, fmt.Errorf("VDUSE device %s: another process serves it", name)
		}
	}
}

func (d *vduseDoor) where() string { return "VDUSE device " + d.name }

// giveUp removes the device where this process has made it, and does not serve it.
func (d *vduseDoor) giveUp() error {
	if !d.made {
		return nil
	}
	return errors.Join(vduse.Destroy(d.name), vduse.RemoveStore(d.dir, d.name))
}

// run serves the device until ctx ends, which leaves it to the next process, or until it is
// removed from the bus.
func (d *vduseDoor) run(ctx context.Context) error {
	defer d.lines.Flush()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	joined := make(chan error, 1)
	go func() {
		err := d.join(ctx)
		if err != nil {
			cancel()
		}
		joined <- err
	}()
	err := d.session.Run(ctx)
	cancel()
	if jerr := <-joined; jerr != nil {
		return errors.Join(jerr, err, d.giveUp())
	}
	switch {
	case errors.Is(err, vduse.ErrRemoved):
		d.made = true // nobody needs it any more
		if err = d.giveUp(); err == nil {
			d.log.Infof("VDUSE device %s: removed", d.name)
		}
	case err != nil:
		err = fmt.Errorf("VDUSE device %s: %w", d.name, err)
	default:
		d.log.Infof("VDUSE device %s: left to the next process", d.name)
	}
	return err
}

// join has the device join the vDPA bus, and reports the disk that the kernel makes of it.
func (d *vduseDoor) join(ctx context.Context) error {
	if err := vduse.Attach(d.name); err != nil {
		return err
	}
	said := false
	for begun := time.Now(); ; {
		if disk := vduse.BlockDevice(d.name); disk != "" {
			d.log.Infof("VDUSE device %s: the host has it as %s", d.name, disk)
			break
		}
		if !said && time.Since(begun) > 2*time.Second && vduse.Driver(d.name) == "" {
			said = true
			d.log.Warnf("VDUSE device %s: no driver has taken it: load the module virtio_vdpa (modprobe virtio_vdpa)", d.name)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(50 * time.Millisecond):
		}
	}
	if _, err := sd.SdNotify(false, sd.SdNotifyReady); err != nil {
		d.lines.Logf(logrus.WarnLevel, "telling the service manager that the disk is ready: %v", err)
	}
	return nil
}

// logLine passes a session's lines on to the log.
func (d *vduseDoor) logLine(level vduse.Level, format string, args ...any) {
	levels := map[vduse.Level]logrus.Level{
		vduse.LevelDebug: logrus.DebugLevel,
		vduse.LevelInfo:  logrus.InfoLevel,
		vduse.LevelWarn:  logrus.WarnLevel,
	}
	d.lines.Logf(levels[level], "VDUSE device %s: "+format, append([]any{d.name}, args...)...)
}

// vduseDir is where the state of the device is.
func (c *Config) vduseDir() string {
	if c.VDUSEState != "" {
		return c.VDUSEState
	}
	return vduse.DefaultStateDir
}
