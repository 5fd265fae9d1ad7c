// Package daemon puts the parts together: it opens a disk, listens for a front-end, serves
// one at a time and ends cleanly.
//
// What lives here: what an operator may ask for (config.go), the listening socket
// (listen.go, lockdir.go), the accept loop and the order of starting and stopping
// (server.go), the doors to the device (door.go, vfiouser.go), front-ends that wait (newcomers.go), the control socket (control.go; what
// it says is internal/control's), the service manager's protocols (systemd.go), signals
// (signals.go), and which failures stay until somebody sees to them (lasting.go).
//
// It may import internal/device and everything below it, internal/vfio and vfiouser, internal/control,
// internal/foreign, internal/logging, logrus and go-systemd (daemon and activation).
// Nothing but cmd/zvhost imports it, and tests that start a daemon.
//
// It follows "Backend program conventions" of QEMU's
// docs/interop/vhost-user.rst, sd_listen_fds(3) and sd_notify(3).
package daemon
