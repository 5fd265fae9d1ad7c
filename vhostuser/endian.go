//go:build !amd64 && !arm64

package vhostuser

// vhost-user numbers are in the machine's byte order, and this package writes
// little-endian.
var _ = vhostuserNeedsALittleEndianMachine
