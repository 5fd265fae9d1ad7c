//go:build zvhost_plant_nodoubt

package virtio

const plantNoDoubt = true
