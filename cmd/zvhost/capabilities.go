package main

import "io"

const printCapabilitiesFlag = "print-capabilities"

// capabilities describes this back-end to management software
// (VHostUserBackendCapabilities of QEMU's docs/interop/vhost-user.json): its type, and
// the optional options of that type that it supports.
type capabilities struct {
	Type     string   `json:"type"`
	Features []string `json:"features"`
}

func printCapabilities(w io.Writer) error {
	return writeJSON(w, capabilities{Type: "block", Features: []string{"read-only", "blk-file"}})
}
