package bench

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/zvhost/zvhost/virtio/transport"
)

// RW is the kind of requests.
type RW string

// The kinds of requests. RandWrite is not for zoned disks; Append and Report are for zoned
// disks only.
const (
	Read      RW = "read"      // one after the other
	Write     RW = "write"     // one after the other; in a zone one at a time, as Linux does
	RandRead  RW = "randread"  // anywhere
	RandWrite RW = "randwrite" // anywhere
	Append    RW = "append"    // zone appends
	Report    RW = "report"    // zone reports
)

var allRW = []RW{Read, Write, RandRead, RandWrite, Append, Report}

// writes reports whether the requests change the disk.
func (rw RW) writes() bool { return rw == Write || rw == RandWrite || rw == Append }

// Limits of a Config.
const (
	MaxDepth      = 1024
	MaxBlockBytes = 16 << 20
	// maxMemory is the most guest memory that all requests together may have.
	maxMemory = 8 << 30
	// maxPID is above any (PID_MAX_LIMIT, include/linux/threads.h).
	maxPID = 4 << 20
	// minTimeout is what poll(2) and io_uring can wait.
	minTimeout = time.Millisecond
)

// Config is the configuration of a measurement.
type Config struct {
	SocketPath string // of a vhost-user back-end
	VFIOUser   string // the socket of a vfio-user server of a virtio block device
	// File is a file or block device that is read and written itself, by io_uring, instead
	// of a back-end, for comparison with a back-end over it. Direct bypasses the page
	// cache.
	File   string
	Direct bool

	RW         RW
	BlockBytes int // data of a request, a multiple of 512; of Report: room for the answer
	Depth      int // requests in flight in each queue
	Queues     int // each with a thread of its own
	Zones      int // zones that are written at once, all queues together
	Runtime    time.Duration
	// Poll: the client checks for answers all the time. Without it, it sleeps until the
	// back-end calls.
	Poll bool
	// Timeout is how long the back-end, or the file, may take without any answer.
	Timeout time.Duration
	// Packed: use packed rings instead of split ones.
	Packed bool
	// ServerPID is the process whose processor time is measured; 0: the listener on the
	// socket.
	ServerPID int
}

// Default is the default configuration.
func Default() Config {
	return Config{RW: RandRead, BlockBytes: 4096, Depth: 32, Queues: 1, Zones: 4, Runtime: 10 * time.Second, Timeout: 30 * time.Second}
}

// Validate reports what is wrong with the values themselves, in one line. It accesses no
// file.
func (c *Config) Validate() error {
	switch {
	case c.SocketPath == "" && c.File == "" && c.VFIOUser == "":
		return errors.New("nothing to measure: give the back-end's socket with --socket-path=PATH or --vfio-user=PATH")
	case c.VFIOUser != "" && (c.SocketPath != "" || c.File != ""):
		return errors.New("--vfio-user excludes --socket-path and --blk-file: give one")
	case c.SocketPath != "" && c.File != "":
		return errors.New("--socket-path and --blk-file exclude each other: give one")
	case c.File == "" && c.Direct:
		return errors.New("--cache is for --blk-file: a back-end has its own")
	case c.File != "" && (c.RW == Append || c.RW == Report):
		return fmt.Errorf("--rw=%s: for a back-end's zoned disk only: --blk-file takes reads and writes", c.RW)
	case !c.RW.known():
		return fmt.Errorf("--rw=%s: must be %s", c.RW, choices())
	case c.BlockBytes < 512 || c.BlockBytes%512 != 0 || c.BlockBytes > MaxBlockBytes:
		return fmt.Errorf("--bs: %d bytes: must be a multiple of 512, up to %d MiB", c.BlockBytes, MaxBlockBytes>>20)
	case c.Depth < 1 || c.Depth > MaxDepth:
		return fmt.Errorf("--iodepth=%d: must be 1 to %d", c.Depth, MaxDepth)
	case c.Queues < 1 || c.Queues > transport.MaxQueues:
		return fmt.Errorf("--queues=%d: must be 1 to %d", c.Queues, transport.MaxQueues)
	case c.Zones < 1:
		return fmt.Errorf("--zones=%d: must be at least 1", c.Zones)
	case c.Runtime <= 0:
		return fmt.Errorf("--runtime=%v: must be longer than 0, such as 10s", c.Runtime)
	case c.Timeout < minTimeout:
		return fmt.Errorf("--timeout=%v: must be at least %v, such as 30s", c.Timeout, minTimeout)
	case c.ServerPID < 0 || c.ServerPID > maxPID:
		return fmt.Errorf("--server-pid=%d: must be the number of a process", c.ServerPID)
	case c.BlockBytes*c.Depth*c.Queues > maxMemory:
		return fmt.Errorf("%d queues of %d requests of %d bytes need more than %d GiB of memory: take fewer or smaller ones", c.Queues, c.Depth, c.BlockBytes, maxMemory>>30)
	}
	return nil
}

func (rw RW) known() bool {
	for _, k := range allRW {
		if rw == k {
			return true
		}
	}
	return false
}

func choices() string {
	words := make([]string, len(allRW))
	for i, k := range allRW {
		words[i] = string(k)
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}
