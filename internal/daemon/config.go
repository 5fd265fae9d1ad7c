package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/device"
	"github.com/zvhost/zvhost/internal/logging"
	"github.com/zvhost/zvhost/vduse"
	"github.com/zvhost/zvhost/virtio/transport"
)

const (
	// NoFD is Config.FD when no file descriptor was given.
	NoFD = -1

	// MaxSerialBytes is the length of a virtio-blk serial number
	// (VIRTIO_BLK_ID_BYTES; virtio, "Block Device / Device Operation").
	MaxSerialBytes = 20
	maxPollMax     = time.Second

	// DefaultPollMax is Config.PollMax where the operator says nothing.
	DefaultPollMax = device.DefaultPollMax

	// DefaultSocketMode lets the daemon's user and the socket's group connect.
	DefaultSocketMode fs.FileMode = 0o660
)

// Config is what an operator asks of one daemon.
type Config struct {
	// SocketPath is where to listen; empty with FD, and under socket
	// activation when the socket unit alone is to say it.
	SocketPath string
	// SocketMode and SocketGroup say who may connect to SocketPath. An empty
	// group leaves the daemon's own.
	SocketMode  fs.FileMode
	SocketGroup string
	// VFIOUser, instead of SocketPath, is where to listen for a vfio-user client, which gets
	// the disk as a virtio-blk PCI function.
	VFIOUser string
	// FD is an inherited socket, listening or connected, or NoFD.
	FD int
	// VDUSE, instead of a socket, is the name of the device that the host's own kernel gets.
	// VDUSEState is the directory of its state; empty: vduse.DefaultStateDir.
	VDUSE, VDUSEState string

	BlkFile string // the image, file or device to serve
	// NullSectors, instead of BlkFile, is the size of a disk without storage
	// (backend.NewNull); 0: none is asked for.
	NullSectors uint64
	// Window is the part of a zoned block device to serve; nil for all of it.
	Window   *disk.Window
	ReadOnly bool
	// Incoming leaves BlkFile to another daemon until a guest that comes from there
	// starts its queues here.
	Incoming bool
	Queues   int    // request queues offered, 1 to transport.MaxQueues
	Serial   string // at most MaxSerialBytes printable ASCII characters; empty: none
	// Format is what BlkFile has to be; empty for whatever it is.
	Format disk.Format
	// BlockSize is the logical block size in bytes that the disk is shown with, 512 or 4096;
	// 0 for its own: see disk.Options.
	BlockSize uint32
	// Cache selects whether the host's page cache is used between guests and BlkFile.
	Cache Cache
	// PollMax is how long a queue looks for more work before it sleeps, at most; 0
	// for not at all. While it looks it uses a processor.
	PollMax time.Duration
	// AIO is what I/O is done with; empty for the best that the kernel has.
	AIO engine.Kind

	// SplitRings withholds packed rings from front-ends.
	SplitRings bool
	// ControlPath is where zvhost fault and zvhost zone set-state find the daemon;
	// empty for nowhere.
	ControlPath string
	// Faults are armed for this run, beside those that the image has.
	Faults []disk.Fault

	// Create is the geometry of an image to make when BlkFile does not exist;
	// nil when it has to exist.
	Create *zone.Geometry
	// Trace logs every message of a front-end in words, at debug level.
	Trace bool

	warn func(string) // for disk.Options.Warn
}

// Cache is what --cache says.
type Cache string

// The ways to use the host's page cache. Zoned drives are always direct.
const (
	CacheDefault  Cache = "" // direct for zoned drives, buffered for the rest
	CacheBuffered Cache = "buffered"
	CacheDirect   Cache = "direct"
)

// Validate reports what is wrong with the values themselves, in one line. It
// touches no file.
func (c *Config) Validate() error {
	switch {
	case c.NullSectors != 0 && (c.BlkFile != "" || c.Create != nil || c.Window != nil || c.ReadOnly):
		return errors.New("--null is a disk without storage: leave --blk-file, --create, --zones and --read-only out")
	case c.NullSectors != 0 && (c.Format != disk.FormatAny || c.Cache == CacheDirect):
		return errors.New("--null is a disk without storage, which has no format and no page cache to go past: leave --format and --cache out")
	case c.NullSectors == 0 && c.BlkFile == "":
		return errors.New("nothing to serve: give the image, file or device with --blk-file=FILE")
	case c.SocketPath != "" && c.FD != NoFD:
		return errors.New("--socket-path and --fd exclude each other: give one")
	case c.VFIOUser != "" && (c.SocketPath != "" || c.FD != NoFD):
		return errors.New("--vfio-user serves a PCI function, and --socket-path and --fd a vhost-user back-end: give one")
	case c.VFIOUser != "" && c.Incoming:
		return errors.New("--incoming is for a guest that migrates, which no vfio-user client can: leave one of them out")
	case strings.HasPrefix(c.VFIOUser, "@"):
		return abstract("--vfio-user", c.VFIOUser)
	case len(c.VFIOUser) > maxSocketPath:
		return fmt.Errorf("--vfio-user: %d bytes long, but it may have at most %d: use a shorter one", len(c.VFIOUser), maxSocketPath)
	case c.ControlPath != "" && c.ControlPath == c.VFIOUser:
		return errors.New("--control-path and --vfio-user are the same: they are two sockets, so give two paths")
	case c.VDUSE != "" && (c.SocketPath != "" || c.VFIOUser != "" || c.FD != NoFD):
		return errors.New("--vduse serves the host's own kernel, and --socket-path, --vfio-user and --fd another process: give one")
	case c.VDUSE != "" && c.Incoming:
		return errors.New("--incoming is for a guest that migrates, and --vduse serves the host's own kernel: leave one of them out")
	case c.VDUSE == "" && c.VDUSEState != "":
		return errors.New("--vduse-state is for the state of a device of --vduse: add it, or leave this out")
	case c.FD < NoFD || c.FD >= 0 && c.FD <= 2:
		return fmt.Errorf("--fd=%d: not a socket handed over by the parent: it must be 3 or more", c.FD)
	case c.Queues < 1 || c.Queues > transport.MaxQueues:
		return fmt.Errorf("--queues=%d: must be 1 to %d", c.Queues, transport.MaxQueues)
	case strings.HasPrefix(c.SocketPath, "@"):
		return abstract("--socket-path", c.SocketPath)
	case strings.HasPrefix(c.ControlPath, "@"):
		return abstract("--control-path", c.ControlPath)
	case len(c.SocketPath) > maxSocketPath:
		return fmt.Errorf("--socket-path: %d bytes long, but it may have at most %d: use a shorter one", len(c.SocketPath), maxSocketPath)
	case len(c.ControlPath) > maxSocketPath:
		return fmt.Errorf("--control-path: %d bytes long, but it may have at most %d: use a shorter one", len(c.ControlPath), maxSocketPath)
	case c.ControlPath != "" && c.ControlPath == c.SocketPath:
		return errors.New("--control-path and --socket-path are the same: they are two sockets, so give two paths")
	case c.SocketMode&^0o777 != 0:
		return fmt.Errorf("--socket-mode=%#o: must be permission bits, 0 to 0777", uint32(c.SocketMode))
	case c.Create != nil && c.ReadOnly:
		return errors.New("--create and --read-only exclude each other: a new image has nothing to read")
	case c.Incoming && c.NullSectors != 0:
		return errors.New("--incoming waits for a disk that another zvhost has, and --null is one without storage: leave one of them out")
	case c.Incoming && c.Create != nil:
		return errors.New("--incoming and --create exclude each other: another zvhost has the disk already")
	case c.Format != disk.FormatAny && c.Format != disk.FormatRaw && c.Format != disk.FormatZoned:
		return fmt.Errorf("--format=%s: must be raw or zoned", c.Format)
	case c.Create != nil && c.Format == disk.FormatRaw:
		return errors.New("--create and --format=raw exclude each other: what --create makes is a zoned image")
	case c.Cache != CacheDefault && c.Cache != CacheBuffered && c.Cache != CacheDirect:
		return fmt.Errorf("--cache=%s: must be direct or buffered", c.Cache)
	case c.BlockSize != 0 && c.BlockSize != 512 && c.BlockSize != 4096:
		return fmt.Errorf("--block-size=%d: must be 512 or 4096", c.BlockSize)
	case c.BlockSize != 0 && c.NullSectors != 0:
		return errors.New("--null is a disk without storage, with blocks of 512 bytes: leave --block-size out")
	case c.PollMax < 0 || c.PollMax > maxPollMax:
		return fmt.Errorf("--poll-max=%v: must be 0 (never) to %v", c.PollMax, maxPollMax)
	case c.AIO != "" && !slices.Contains(engine.Kinds, c.AIO):
		return fmt.Errorf("--aio=%s: must be io_uring, native or threads", c.AIO)
	case len(c.Serial) > MaxSerialBytes:
		return fmt.Errorf("--serial=%q: %d bytes long, but a virtio-blk serial number has at most %d", c.Serial, len(c.Serial), MaxSerialBytes)
	}
	if c.VDUSE != "" {
		if err := vduse.CheckName(c.VDUSE); err != nil {
			return fmt.Errorf("--vduse: %w", err)
		}
	}
	for _, b := range []byte(c.Serial) {
		if b <= ' ' || b > '~' {
			return fmt.Errorf("--serial=%q: must be printable ASCII without spaces", c.Serial)
		}
	}
	return nil
}

// abstract refuses the name of an abstract socket (unix(7)).
func abstract(option, path string) error {
	return fmt.Errorf("%s=%s: names an abstract socket, which has no permissions, so that any process could connect: give the path of a file, such as /run/vm1.sock (or ./%s for a file of that name)", option, path, path)
}

// maxSocketPath is the longest path that listen can make a socket at, in bytes:
// sun_path less its terminating zero (unix(7)), and less what listen adds.
const maxSocketPath = len(unix.RawSockaddrUnix{}.Path) - 1 - len(nameSuffix)

// openDisk makes the image when that was asked for and it does not exist, and
// opens what there is.
func (c *Config) openDisk() (disk.Disk, error) {
	dk, err := c.openStorage()
	if err != nil {
		return nil, err
	}
	if _, err := dk.Faults().Add(c.Faults...); err != nil {
		return nil, errors.Join(lasting(fmt.Errorf("--fault: %s: %w", c.what(), err)), dk.Close())
	}
	return dk, nil
}

// lookAtDisk makes the placeholder of a disk that another process may have open.
func (c *Config) lookAtDisk() (disk.Disk, error) {
	if err := c.checkCache(); err != nil {
		return nil, err
	}
	return backend.Look(c.BlkFile, c.options())
}

// what is being served, for messages.
func (c *Config) what() string {
	if c.NullSectors != 0 {
		return "no storage (--null)"
	}
	return c.BlkFile
}

func (c *Config) openStorage() (disk.Disk, error) {
	if c.NullSectors != 0 {
		return backend.NewNull(c.NullSectors)
	}
	if c.Create != nil {
		_, err := os.Stat(c.BlkFile)
		if errors.Is(err, fs.ErrNotExist) {
			err = image.Create(c.BlkFile, *c.Create)
		} else if err == nil {
			// After a restart, or a repeated command: serve what is there, but never
			// something else than what was asked for.
			err = matches(c.BlkFile, *c.Create)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := c.checkCache(); err != nil {
		return nil, err
	}
	return backend.Open(c.BlkFile, c.options())
}

// checkCache says why the disk cannot be used with --cache.
func (c *Config) checkCache() error {
	if c.Cache != CacheBuffered {
		return nil
	}
	kind, err := image.Probe(c.BlkFile)
	if err == nil && kind == disk.KindZonedDevice {
		err = fmt.Errorf("--cache=buffered: %s is a zoned drive, which takes writes in order: it cannot be used through the page cache; leave --cache out", c.BlkFile)
		err = lasting(err)
	}
	return err
}

func (c *Config) options() disk.Options {
	return disk.Options{ReadOnly: c.ReadOnly, Direct: c.Cache == CacheDirect, Format: c.Format, Window: c.Window, BlockSize: c.BlockSize, Warn: c.warn}
}

// reopener returns what opens the disk again that was found to be i, and what looks at
// it again: as what it was, whatever a guest has written into it since.
func (c *Config) reopener(i disk.Info) (open, look func() (disk.Disk, error)) {
	if c.NullSectors != 0 {
		return nil, nil
	}
	again := *c
	again.Create, again.Format = nil, disk.FormatRaw
	again.BlockSize = i.LogicalBlockSize // as the guest was shown it
	if i.Zoned != nil {
		again.Format = disk.FormatZoned
	}
	return again.openDisk, again.lookAtDisk
}

// matches returns an error that says what differs unless the image at path has
// the geometry g.
func matches(path string, g zone.Geometry) error {
	if err := g.Complete(); err != nil {
		return err
	}
	if kind, err := image.Probe(path); err == nil && kind == disk.KindPlain {
		return lasting(fmt.Errorf("--create: %s exists already and is an ordinary disk: give another --blk-file, or leave --create and what belongs to it out to serve the file as it is", path))
	}
	r, err := backend.ReadReport(path)
	if err != nil {
		return err
	}
	if what := difference(r, g); what != "" {
		return lasting(fmt.Errorf("--create: %s exists already with %s: give another --blk-file, or leave --create and what belongs to it out to serve the file as it is", path, what))
	}
	return nil
}

// difference says in which point a zoned disk is not what g describes; empty
// when it is.
func difference(r disk.Report, g zone.Geometry) string {
	z := r.Info.Zoned
	type point struct {
		what      string
		have, ask uint64
		sectors   bool // they are sizes
	}
	points := []point{
		{"size", r.Info.CapacitySectors, g.CapacitySectors, true},
		{"zone size", z.ZoneSectors, g.ZoneSectors, true},
	}
	conventional := 0
	for _, zn := range r.Zones {
		if zn.Type == zone.Conventional {
			conventional++
			continue
		}
		points = append(points, point{"zone capacity", zn.Capacity, min(g.ZoneCapacitySectors, zn.Length), true})
	}
	points = append(points,
		point{"number of conventional zones", uint64(conventional), uint64(g.ConventionalZones), false},
		point{"open zones limit", uint64(z.MaxOpen), uint64(g.MaxOpen), false},
		point{"active zones limit", uint64(z.MaxActive), uint64(g.MaxActive), false},
		point{"append limit", uint64(z.MaxAppendSectors), uint64(g.MaxAppendSectors), true},
		point{"block size", uint64(r.Info.LogicalBlockSize), uint64(g.BlockSize), false},
	)
	for _, p := range points {
		if p.have != p.ask {
			show := func(n uint64) string { return strconv.FormatUint(n, 10) }
			if p.sectors {
				show = logging.Size
			}
			return fmt.Sprintf("another %s (%s, not %s)", p.what, show(p.have), show(p.ask))
		}
	}
	return ""
}

// A groupError is one of package user, without the package's name.
type groupError struct{ error }

func (e groupError) Unwrap() error { return e.error }

func (e groupError) Error() string {
	var unknown user.UnknownGroupError
	if errors.As(e.error, &unknown) {
		return "there is no such group: make it first (groupadd), or give another one"
	}
	return e.error.Error()
}

// groupID looks up a group by name or number.
func groupID(group string) (int, error) {
	if gid, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(gid), nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("--socket-group=%s: %w", group, groupError{err})
	}
	return strconv.Atoi(g.Gid)
}

// checkFileLimit makes sure that the daemon can hold the descriptors a session
// needs. Go raises the soft limit to the hard one by itself; a hard limit that
// is too low would show up later as a front-end that fails for no reason.
func checkFileLimit(queues int) error {
	const (
		base     = 64  // image, sockets, log, runtime
		perQueue = 8   // kick, call, err, and the worker's and its engine's own
		memory   = 512 // memory regions: one descriptor each
	)
	need := uint64(base + memory + perQueue*queues)
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("reading the limit of open files: %w", err)
	}
	if lim.Cur < need {
		return lasting(fmt.Errorf("at most %d open files are allowed, but %d queues may need %d: raise the limit (ulimit -n, or LimitNOFILE= in the unit)", lim.Cur, queues, need))
	}
	return nil
}
