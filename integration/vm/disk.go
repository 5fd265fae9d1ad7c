package vm

import "fmt"

// A Disk is a vhost-user disk of a guest.
type Disk struct {
	ID     string // of QEMU's device, and part of the names of what belongs to it
	Socket string // that the back-end listens on
	Queues int    // that the guest gets; 0: 1
	// Generic says that the disk is there by way of QEMU's generic device, which passes
	// all features and the whole configuration on, and not of vhost-user-blk-pci.
	Generic bool
	// Removable disks have a slot of their own, which they can be taken from.
	Removable bool
	// ReconnectMS has QEMU connect again after so many milliseconds; 0: it does not.
	ReconnectMS int
}

// configBytes is struct virtio_blk_config up to its end, the zoned fields.
const configBytes = 96

// Device is the disk as device_add takes it.
func (d *Disk) Device() map[string]any {
	device := map[string]any{"id": d.ID, "chardev": d.ID + ".socket"}
	queues := max(d.Queues, 1)
	if d.Generic {
		device["driver"] = "vhost-user-test-device-pci"
		device["virtio-id"], device["num_vqs"], device["vq_size"], device["config_size"] = 2, queues, 128, configBytes
	} else {
		device["driver"], device["num-queues"] = "vhost-user-blk-pci", queues
	}
	if d.Removable {
		device["bus"] = d.ID + ".slot"
	}
	return device
}

// arguments are QEMU's for disk number n.
func (d *Disk) arguments(n int) []string {
	chardev := fmt.Sprintf("socket,id=%s.socket,path=%s", d.ID, d.Socket)
	if d.ReconnectMS > 0 {
		chardev += fmt.Sprintf(",reconnect-ms=%d", d.ReconnectMS)
	}
	args := []string{"-chardev", chardev}
	if d.Removable {
		args = append(args, "-device", fmt.Sprintf("pcie-root-port,id=%s.slot,chassis=%d,slot=%d", d.ID, n+1, n+1))
	}
	return append(args, "-device", asJSON(d.Device()))
}
