package daemon

import (
	"net"

	"github.com/sirupsen/logrus"

	"github.com/zvhost/zvhost/internal/vfio"
	"github.com/zvhost/zvhost/vfiouser"
	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/virtio"
)

// The disk as a virtio-blk PCI function behind a vfio-user socket.

const (
	virtioBlock  = 2        // "Virtio Device IDs"
	classStorage = 0x018000 // PCI: mass storage controller, other
	// maxQueueSize is that of QEMU's own virtio-blk, and the most that SeaBIOS can use.
	maxQueueSize = 256
)

// openFunction makes the function that clients get.
func (s *server) openFunction() (err error) {
	s.function, err = vfio.New(s.dev, vfio.Options{
		Type: virtioBlock, Class: classStorage, QueueSize: maxQueueSize, ConfigBytes: virtio.BlkConfigBytes,
		Log: s.vfioLog("PCI function"), Behind: s.behind.Go,
	})
	if err == nil && s.store != nil {
		s.log.Warn("--vfio-user: a restart of this daemon is not invisible to the guest: its client loses the connection")
	}
	return err
}

func (s *server) closeFunction() {
	if s.function != nil {
		s.function.Close()
	}
}

func (s *server) vfioLog(of string) vfiouser.LogFunc {
	levels := map[vfiouser.Level]logrus.Level{
		vfiouser.LevelDebug: logrus.DebugLevel,
		vfiouser.LevelInfo:  logrus.InfoLevel,
		vfiouser.LevelWarn:  logrus.WarnLevel,
	}
	return func(level vfiouser.Level, format string, args ...any) {
		s.lines.Logf(levels[level], "%s: "+format, append([]any{of}, args...)...)
	}
}

// A vfioSession is one of a vfio-user client. It cannot be left to the next process.
type vfioSession struct {
	*vfiouser.Session
	function *vfio.Function
}

func (s *server) newVFIOSession(conn *net.UnixConn, who string) (session, error) {
	v, err := vfiouser.NewSession(conn, s.function, vfiouser.Options{Log: s.vfioLog("front-end " + who), Trace: s.trace})
	if err != nil {
		return nil, err
	}
	return vfioSession{v, s.function}, nil
}

func (v vfioSession) Run() error {
	v.function.Begin()
	return v.Session.Run()
}

// Presence does not distinguish dead clients. No descriptor that a session keeps can hold the
// client's end of the connection open; while another process has it open, newcomers wait and are refused.
func (v vfioSession) Presence() vhostuser.Presence {
	switch v.Session.Presence() {
	case vfiouser.Busy:
		return vhostuser.Busy
	case vfiouser.Left:
		return vhostuser.Left
	}
	return vhostuser.Here
}

func (v vfioSession) Suspend()   { v.Close() }
func (v vfioSession) Supersede() { v.Close() }
func (v vfioSession) GiveUp()    {}
