package daemon

import (
	"os"

	"github.com/sirupsen/logrus"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/internal/control"
	"github.com/zvhost/zvhost/internal/device"
)

// A controller is the control socket and who serves it; nil when none was asked
// for.
type controller struct {
	front  *front
	server *control.Server
	ended  chan error
}

// openControl listens at path, for root and the daemon's own user, and serves clients.
func openControl(path string, disk disk.Disk, dev *device.Device, log logrus.FieldLogger) (*controller, error) {
	if path == "" {
		return nil, nil
	}
	f, err := listen(endpoint{option: "--control-path", path: path, mode: 0o600})
	if err != nil {
		return nil, err
	}
	c := &controller{front: f, server: control.NewServer(disk, func(line string) { log.Warn(line) }), ended: make(chan error, 1)}
	c.server.Grow, c.server.Borrow = dev.Grow, dev.Borrow
	go func() {
		err := c.server.Serve(f.listener)
		if err != nil {
			log.Errorf("%s: %v: it takes no more requests; the disk is served all the same", f.where, err)
		}
		c.ended <- err
	}()
	log.Infof("taking faults, zone states and new sizes on %s", f.where)
	return c, nil
}

// stopListening accepts no more connections.
func (c *controller) stopListening() error {
	if c == nil {
		return nil
	}
	return c.front.stopListening()
}

// close ends it, once what was asked for last has been carried out.
func (c *controller) close() {
	if c == nil {
		return
	}
	c.server.Close()
	<-c.ended
}

// warnOfLastPart logs bytes at the end of an ordinary disk's file that are no whole block:
// guests do not see them, and they are not changed.
func warnOfLastPart(log logrus.FieldLogger, file string, i disk.Info) {
	st, err := os.Stat(file)
	if err != nil || !st.Mode().IsRegular() || i.Zoned != nil {
		return
	}
	if rest := st.Size() % int64(i.LogicalBlockSize); rest != 0 {
		log.Warnf("%s: the last %d of its %d bytes are not served, for they are no whole block of %d; to serve them make the file longer (truncate -s %d)",
			file, rest, st.Size(), i.LogicalBlockSize, st.Size()-rest+int64(i.LogicalBlockSize))
	}
}
