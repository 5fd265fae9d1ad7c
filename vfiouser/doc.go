// Package vfiouser is the server's side of the vfio-user protocol: the messages, the
// connection that carries them and their descriptors, and the session that acts on them for
// one client.
//
// Contents: the message table (message.go), the wire structs (wire.go, print.go), the
// connection (conn.go), and the session (session*.go). The device behind the protocol is the
// [Device] interface: regions that are read and written, a DMA map, interrupts by eventfd, a
// reset. The package knows neither virtio nor PCI, so that any device model can use it. The
// other end of the connection is package vfiouser/client.
//
// It may import internal/foreign and golang.org/x/sys/unix. It logs only through the function
// that it is given.
//
// It implements docs/interop/vfio-user.rst of QEMU ("the protocol" in the comments), versions
// 0.0 and 0.1; docs/vfio-user.md lists what is implemented. Numbers on the wire are
// little-endian, the byte order of the machines that this package is for.
package vfiouser
