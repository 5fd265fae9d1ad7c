package suite

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/control"
	"github.com/zvhost/zvhost/internal/device"
	"github.com/zvhost/zvhost/internal/logging"
	"github.com/zvhost/zvhost/internal/vfio"
	"github.com/zvhost/zvhost/internal/zonemodel"
	"github.com/zvhost/zvhost/vfiouser"
	vfiofront "github.com/zvhost/zvhost/vfiouser/frontend"
	"github.com/zvhost/zvhost/vhostuser"
	vhostfront "github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/blkclient"
	"github.com/zvhost/zvhost/virtio/driver"
)

// setups are disks that differ in all that matters: block size, capacity below
// size or not, with and without conventional zones, limits, a smaller last zone,
// one that is smaller than the capacity of the others; one queue and several; the
// ring's format and features, and write-through.
var setups = map[string]Setup{
	"512": {Geometry: zonemodel.Geometry{
		CapacitySectors: 9*128 + 64, ZoneSectors: 128, ZoneCapacitySectors: 96, ConventionalZones: 2,
		MaxOpen: 2, MaxActive: 3, MaxAppendSectors: 32, BlockBytes: 512,
	}, Queues: 4},
	"4096": {Geometry: zonemodel.Geometry{
		CapacitySectors: 8*128 + 112, ZoneSectors: 128, ZoneCapacitySectors: 104,
		MaxOpen: 3, MaxAppendSectors: 64, BlockBytes: 4096,
	}, Queues: 1, Without: driver.FeatureEventIdx, Packed: true},
	"whole zones, no limits": {Geometry: zonemodel.Geometry{
		CapacitySectors: 8 * 64, ZoneSectors: 64, ZoneCapacitySectors: 64, ConventionalZones: 1,
		MaxAppendSectors: 64, BlockBytes: 512,
	}, Queues: 4, Without: driver.FeatureIndirectDesc, Packed: true},
	"read-only": {Geometry: zonemodel.Geometry{
		CapacitySectors: 13*64 + 8, ZoneSectors: 64, ZoneCapacitySectors: 56, ConventionalZones: 1,
		MaxAppendSectors: 16, BlockBytes: 512,
	}, Queues: 2, ReadOnly: true},
	"one zone": {Geometry: zonemodel.Geometry{
		CapacitySectors: 256, ZoneSectors: 256, ZoneCapacitySectors: 248, MaxActive: 1,
		MaxAppendSectors: 8, BlockBytes: 4096,
	}, Queues: 1, Without: driver.FeatureEventIdx | driver.FeatureIndirectDesc | driver.BlkFlush},
}

// target is where the tests have their disks from.
func target() Target {
	switch {
	case *socketFlag != "":
		return served(overVhostUser(*socketFlag))
	case *vfioFlag != "":
		return served(overVFIOUser(*vfioFlag))
	}
	return ownDaemon
}

// elsewhere says that the target is served already, by a process that is none of ours.
func elsewhere() bool { return *socketFlag != "" || *vfioFlag != "" }

// here are the setups that make sense with the target: one that has its disk
// already has one.
func here() map[string]Setup {
	if elsewhere() {
		return map[string]Setup{"what is served": {Queues: 4}}
	}
	return setups
}

// opener is Served.Open.
type opener = func(blkclient.Options) (*blkclient.Disk, error)

// overVhostUser opens the disk that a vhost-user back-end serves at a path.
func overVhostUser(path string) opener {
	return func(o blkclient.Options) (*blkclient.Disk, error) {
		c, err := vhostfront.Dial(path)
		if err != nil {
			return nil, err
		}
		return vhostfront.OpenDisk(c, o)
	}
}

// overVFIOUser opens the disk that a vfio-user server serves at a path.
func overVFIOUser(path string) opener {
	return func(o blkclient.Options) (*blkclient.Disk, error) {
		c, err := vfiofront.Dial(path)
		if err != nil {
			return nil, err
		}
		return vfiofront.OpenDisk(c, o)
	}
}

// served is the target of whatever is served already.
func served(open opener) Target {
	return func(Setup) (*Served, error) {
		s := &Served{
			Open:   open,
			Close:  func() error { return nil },
			Sample: *sampleFlag,
			OneIn:  *oneInFlag,
		}
		if *controlFlag != "" {
			s.SetState = func(zn int, to zonemodel.State) error {
				_, err := control.Call(*controlFlag, control.Request{
					Command: control.SetState, Zones: strconv.Itoa(zn), State: stateTargets[to].String(),
				})
				return err
			}
		}
		if *imageFlag != "" {
			s.Zones = func() ([]zonemodel.Descriptor, error) { return tableIn(*imageFlag) }
		}
		return s, nil
	}
}

// stateTargets are the states that Served.SetState knows, as backend has them.
var stateTargets = map[zonemodel.State]backend.ZoneTarget{
	zonemodel.ReadOnly: backend.ToReadOnly, zonemodel.Offline: backend.ToOffline,
	zonemodel.Empty: backend.ToEmpty, zonemodel.NotWP: backend.ToWritable,
}

// tableIn reads the zone table out of an image, as zvhost report does.
func tableIn(path string) (zones []zonemodel.Descriptor, err error) {
	r, err := backend.ReadReport(path)
	for _, z := range r.Zones {
		zones = append(zones, zonemodel.Descriptor{
			Start: z.Start, Length: z.Length, Capacity: z.Capacity, WP: z.WP,
			Conventional: z.Type == zone.Conventional, State: zonemodel.State(z.State),
		})
	}
	return zones, err
}

// A way is how the daemon of a test does its I/O.
type way struct {
	aio    engine.Kind
	direct bool
	onDisk bool // the image is on the file system of temporary files, else on tmpfs
	vfio   bool // the disk is a PCI function over vfio-user
}

// ways are each engine with what it does differently: files in memory are read and
// written in place, on a disk through the page cache or past it.
var ways = map[string]way{
	"io_uring, on disk":        {aio: engine.KindUring, onDisk: true},
	"io_uring, direct":         {aio: engine.KindUring, onDisk: true, direct: true},
	"linux-aio, direct":        {aio: engine.KindNative, onDisk: true, direct: true},
	"threads":                  {aio: engine.KindThreads},
	"threads, on disk, direct": {aio: engine.KindThreads, onDisk: true, direct: true},
}

// ownDaemon is the target of a daemon's device over a new image, with a session
// for each front-end, on the engine that is the default.
func ownDaemon(s Setup) (*Served, error) { return way{aio: engine.KindUring}.serve(s) }

// overVFIO is the same as a PCI function over vfio-user.
func overVFIO(s Setup) (*Served, error) { return way{aio: engine.KindUring, vfio: true}.serve(s) }

// serve is a Target.
func (w way) serve(s Setup) (*Served, error) {
	dir, err := "", os.ErrNotExist
	if !w.onDisk {
		dir, err = os.MkdirTemp("/dev/shm", "zvhost-suite-")
	}
	if err != nil {
		if dir, err = os.MkdirTemp("", "zvhost-suite-"); err != nil {
			return nil, err
		}
	}
	d := &ownDisk{way: w, dir: dir, path: filepath.Join(dir, "disk.zvh")}
	if err := d.start(s); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return &Served{Open: d.open, Serial: serial, SetState: d.setState, Zones: func() ([]zonemodel.Descriptor, error) { return tableIn(d.path) }, Close: d.close}, nil
}

const serial = "ZV0815"

type ownDisk struct {
	way
	dir, path string
	disk      disk.Disk
	dev       *device.Device
	function  *vfio.Function // nil over vhost-user
	sessions  sync.WaitGroup

	mu  sync.Mutex
	log strings.Builder // what sessions have to say, and how they ended
}

func (d *ownDisk) start(s Setup) (err error) {
	g := s.Geometry
	err = image.Create(d.path, zone.Geometry{
		CapacitySectors: g.CapacitySectors, ZoneSectors: g.ZoneSectors, ZoneCapacitySectors: g.ZoneCapacitySectors,
		ConventionalZones: g.ConventionalZones, MaxOpen: g.MaxOpen, MaxActive: g.MaxActive,
		MaxAppendSectors: g.MaxAppendSectors, BlockSize: g.BlockBytes,
	})
	if err != nil {
		return err
	}
	if s.ReadOnly {
		if err := d.use(s); err != nil {
			return err
		}
	}
	return d.serve(s, disk.Options{ReadOnly: s.ReadOnly})
}

// use brings zones into the states that they can have, one after the other.
func (d *ownDisk) use(s Setup) (err error) {
	if err := d.serve(s, disk.Options{}); err != nil {
		return err
	}
	s.ReadOnly = false
	session, err := Open(&Served{Open: d.open, Serial: serial, SetState: d.setState, Close: d.stop}, s)
	if err != nil {
		return errors.Join(err, d.stop())
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	t := &table{Session: session}
	for i := range conditions {
		if err := t.prepare(s.ConventionalZones+i, &conditions[i]); err != nil {
			return err
		}
	}
	return t.one(&Op{Type: driver.TypeOut, Sector: 8, Bytes: 4096})
}

// serve makes a device of the image.
func (d *ownDisk) serve(s Setup, o disk.Options) (err error) {
	o.Direct = d.direct
	if d.disk, err = backend.Open(d.path, o); err != nil {
		return err
	}
	log, err := logging.New(d, "warning")
	if err == nil {
		d.dev, err = device.New(d.disk, device.Options{Queues: s.Queues, Serial: serial, Engine: d.aio, PollMax: device.DefaultPollMax, Log: log})
	}
	if err == nil && d.vfio {
		// Setups without indirect descriptors need large rings.
		d.function, err = vfio.New(d.dev, vfio.Options{
			Type: 2, Class: 0x018000, QueueSize: 512, ConfigBytes: driver.BlkConfigBytes,
			Log: func(l vfiouser.Level, format string, args ...any) { d.note(l == vfiouser.LevelWarn, format, args...) },
		})
	}
	return err
}

// note takes a session's log line if it is a warning.
func (d *ownDisk) note(warning bool, format string, args ...any) {
	if warning {
		_, _ = fmt.Fprintf(d, format+"\n", args...)
	}
}

// Write takes the log.
func (d *ownDisk) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.Write(b)
}

func (d *ownDisk) open(o blkclient.Options) (*blkclient.Disk, error) {
	d.sessions.Wait() // one at a time
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var ends [2]*net.UnixConn
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), "socket")
		c, e := net.FileConn(f)
		err = errors.Join(err, e, f.Close())
		if e == nil {
			ends[i] = c.(*net.UnixConn)
		}
	}
	if err != nil {
		return nil, err
	}
	if d.vfio {
		return d.openFunction(ends, o)
	}
	d.run(vhostuser.NewSession(ends[0], d.dev, vhostuser.Options{Log: func(l vhostuser.Level, format string, args ...any) {
		d.note(l == vhostuser.LevelWarn, format, args...)
	}}).Run)
	c, err := vhostfront.New(ends[1])
	if err != nil {
		return nil, err
	}
	return vhostfront.OpenDisk(c, o)
}

func (d *ownDisk) openFunction(ends [2]*net.UnixConn, o blkclient.Options) (*blkclient.Disk, error) {
	session, err := vfiouser.NewSession(ends[0], d.function, vfiouser.Options{Log: func(l vfiouser.Level, format string, args ...any) {
		d.note(l == vfiouser.LevelWarn, format, args...)
	}})
	if err != nil {
		return nil, errors.Join(err, ends[0].Close(), ends[1].Close())
	}
	d.function.Begin()
	d.run(session.Run)
	c, err := vfiofront.New(ends[1])
	if err != nil {
		return nil, err
	}
	return vfiofront.OpenDisk(c, o)
}

// run runs a session.
func (d *ownDisk) run(session func() error) {
	d.sessions.Go(func() {
		if err := session(); err != nil {
			_, _ = fmt.Fprintf(d, "the session ended: %v\n", err)
		}
	})
}

func (d *ownDisk) setState(zn int, to zonemodel.State) error {
	return backend.SetZoneStates(d.disk, []int{zn}, stateTargets[to])
}

// stop ends what is served, and checks the image.
func (d *ownDisk) stop() (err error) {
	d.sessions.Wait()
	if d.function != nil {
		d.function.Close()
	}
	if d.dev != nil {
		err = d.dev.Close()
	}
	if d.disk != nil {
		err = errors.Join(err, d.disk.Close())
		findings, cerr := image.Check(d.path)
		err = errors.Join(err, cerr)
		for _, f := range findings {
			err = errors.Join(err, fmt.Errorf("check: %v", f))
		}
	}
	d.function, d.dev, d.disk = nil, nil, nil
	return err
}

// close ends all of it, checks the image and removes it. Anything in the log is
// an error.
func (d *ownDisk) close() (err error) {
	err = d.stop()
	if d.log.Len() > 0 {
		err = errors.Join(err, errors.New(d.log.String()))
	}
	return errors.Join(err, os.RemoveAll(d.dir))
}
