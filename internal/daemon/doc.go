// Package daemon puts the parts together: it opens a disk, listens for a
// front-end, serves one at a time and ends cleanly.
//
// What lives here: what an operator may ask for (config.go), the listening
// socket (listen.go), the accept loop and the order of starting and stopping
// (server.go), the control socket (control.go; what it says is internal/control's),
// the service manager's protocols (systemd.go), the log (log.go,
// ratelimit.go), and the virtio-blk device with its queue workers (device.go,
// worker.go; halt.go: what waits for one to end; notify.go: what it signals).
//
// It may import every other package of the project but cmd, logrus and
// go-systemd (daemon and activation). Nothing but cmd/zvhost imports it.
//
// It follows "Backend program conventions" of QEMU's
// docs/interop/vhost-user.rst, sd_listen_fds(3) and sd_notify(3).
package daemon
