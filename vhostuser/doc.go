// Package vhostuser is the back-end's end of the vhost-user protocol: the
// messages, the connection that carries them and their descriptors, and the
// session that acts on them for one front-end.
//
// What lives here: the message table and the wire structs (message.go, wire.go,
// print.go), the kind that each descriptor has to have (fdkind.go), the connection (conn.go),
// the session's state as plain data (state.go), and the code that acts on it
// (session*.go). The device behind the protocol is a transport.Device; the
// other end of the wire is package vhostuser/frontend.
//
// It may import virtio/transport, virtio/guestmem, internal/foreign, internal/failpoint and
// golang.org/x/sys/unix. It knows nothing of
// virtio-blk, and it logs only through the function it is given.
//
// It implements docs/interop/vhost-user.rst of QEMU ("the protocol" in the
// comments). All numbers on the wire are in the machine's byte order; this
// package is for little-endian machines (amd64, arm64) and refuses to build for
// others.
package vhostuser
