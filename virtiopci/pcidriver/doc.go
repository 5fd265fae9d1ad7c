// Package pcidriver is the driver's side of a virtio 1.x PCI function: what a guest's kernel does
// with the registers. Tests and benchmarks drive functions with it.
//
// Contents: how registers are accessed (access.go), discovery in configuration space (probe.go),
// and the steps of initialization and operation (device.go). Rings are package virtio/driver's.
//
// It may import virtio/driver. In particular it does not use package virtiopci: numbers and
// layouts are taken from the specification a second time, so that a mistake on one side is
// detected.
//
// It implements the driver's half of "Virtio Over PCI Bus", "Device Initialization" and "Virtqueue
// Reset" of virtio 1.4.
//
//	d, err := pcidriver.Probe(access)
//	err = d.Reset()
//	err = d.Negotiate(features)
//	err = d.SetUpQueue(0, ring.Config(), vector)
//	err = d.Start()
//	err = d.Notify(0)
//
// A [Device] belongs to one goroutine, except for Notify: it may be called from one goroutine for
// each queue if the [Access] allows that.
package pcidriver
