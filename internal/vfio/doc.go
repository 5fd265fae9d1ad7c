// Package vfio makes a virtio device a PCI function that a vfio-user client can use: it joins
// virtio/transport, virtiopci and vfiouser, of which none knows the others.
//
// Contents: the function as vfiouser drives it and the device as virtiopci drives it
// (function.go), who calls the device when (turn.go), the queues (queues.go), guest memory from
// the client's DMA map (memory.go), interrupts (interrupts.go).
//
// It may import virtio/transport, virtio/guestmem, virtiopci, vfiouser, internal/foreign and
// golang.org/x/sys/unix. It knows neither sockets nor blocks.
//
// It implements of the virtio specification what is left of "Virtio Over PCI Bus" when the
// registers are taken away: where rings begin, and which event reaches the driver through which
// vector.
package vfio
