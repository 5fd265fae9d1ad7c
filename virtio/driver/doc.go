// Package driver is the driver's side of a virtqueue and of a virtio block device: what a guest
// kernel does. Tests drive the device with it, and so does the front-end that the benchmark
// uses.
//
// Contents: the ring (ring.go) in its two formats (split.go, split_add.go; packed.go), access to
// its raw bytes for tests that corrupt it (raw.go), and block requests (blk.go, report.go).
//
// It may import virtio/guestmem only. In particular it does not use package virtio: numbers and
// layouts are taken from the specification a second time, so that a mistake on one side is
// detected.
//
// It implements the driver's half of "Split Virtqueues", "Packed Virtqueues", "Virtqueue
// Operation" and "Block Device". It checks what the device writes only as far as memory safety
// requires: a used entry that makes no sense ends the ring with an error.
package driver
