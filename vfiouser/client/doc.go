// Package client is the client's side of the vfio-user protocol: it connects to a server,
// negotiates, and sends one command after the other. Tests and benchmarks use it, and it can
// serve as the base of other clients.
//
// It may import vfiouser and golang.org/x/sys/unix. It implements docs/interop/vfio-user.rst
// of QEMU, versions 0.0 and 0.1, without DMA_READ and DMA_WRITE: all memory is passed by
// descriptor.
package client
