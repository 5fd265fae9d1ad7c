// Package virtiopci is a virtio 1.x device on a PCI bus, as a register file: PCI configuration
// space with its capabilities, and one BAR with the common, notification, ISR and device
// configuration structures and the MSI-X table.
//
// Contents: the function and what it asks of the device behind it (function.go), configuration
// space (config.go), accesses to the BAR (bar.go), the common configuration structure (common.go),
// device status, reset and interrupts (status.go), and the state that another process needs
// (state.go). The driver's side is package virtiopci/pcidriver.
//
// It imports the standard library only. It knows no socket and no device type: whoever serves a
// [Function] brings the register accesses to it and delivers its interrupts, and the [Device]
// behind it has the queues.
//
// It implements "Virtio Over PCI Bus" of virtio 1.4 for a non-transitional device, with "Device
// Status Field" and "Device Initialization", and of the PCI specification what such a function
// needs: a type 0 header, the capability list, BAR sizing and the registers of MSI-X.
//
// # What is where
//
// BAR 0 is the only BAR, 32 bits wide, memory, not prefetchable. Each structure has a page (4096
// bytes) of its own: common configuration at 0, ISR status at 0x1000, device configuration at
// 0x2000, notifications at 0x3000, then the MSI-X table and the pending bits. The BAR is the next
// power of two.
//
// # Accesses
//
// An access may have any length and alignment. A read returns the bytes of the fields as they are;
// what is not assigned reads as 0. A write to the common configuration acts on each field that it
// covers as a whole, in order of address, and on no other; a 64-bit field counts as two fields of
// 32 bits. A write notifies each queue of whose notification register it covers the first two
// bytes; the value does not matter, since each queue has an address of its own. An access that
// does not lie in the BAR or in configuration space fails with [ErrRange] and changes nothing.
//
// # Decisions
//
// Interrupts are MSI-X messages only: the interrupt pin is 0. The server delivers them, and applies
// the masks: VMMs that are clients of VFIO trap the MSI-X table and never pass its contents on. So
// the table is storage here, pending bits read as 0, and an event that has a vector is delivered
// whether or not MSI-X is enabled in configuration space. Queues notify the driver without the
// function: [Device.StartQueue] and [Device.SetVector] say with which vector. A driver without
// MSI-X polls, so the queue bit of ISR status is never set.
//
// RING_RESET, NOTIFICATION_DATA and NOTIF_CONFIG_DATA work if the device offers them; it is not
// asked to accept them. SR_IOV and ADMIN_VQ are never offered.
//
// The memory and bus master bits of the command register are stored and have no effect: whoever
// routes accesses to a BAR applies them.
//
// A reset may take as long as the device needs to stop. The device status reads as it was until
// then, and writes have no effect meanwhile (see [Options.ResetWait]).
package virtiopci
