package frontend

import (
	"errors"
	"net"

	"github.com/zvhost/zvhost/vhostuser"
)

// ServeRAMDisk serves a zoned disk in memory to one front-end that connects to path. end
// waits until that has left.
func ServeRAMDisk(path string) (end func() error, err error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() {
		conn, err := l.AcceptUnix()
		if err != nil {
			ended <- err
			return
		}
		ended <- vhostuser.NewSession(conn, newRAMDisk(1), vhostuser.Options{}).Run()
	}()
	return func() error { return errors.Join(<-ended, l.Close()) }, nil
}
