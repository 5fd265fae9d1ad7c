package vfiouser

import (
	"encoding/json"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// The versions that are spoken: 0.0 and 0.1. The smaller minor of the two ends applies.
const (
	major    = 0
	maxMinor = 1
)

// maxVersionData bounds the capabilities of a client, in bytes. QEMU's have 150.
const maxVersionData = 16 << 10

// capabilities are those of a client that matter here. Numbers may be of any size.
type capabilities struct {
	MaxMsgFDs   *json.Number `json:"max_msg_fds"`
	MaxDataXfer *json.Number `json:"max_data_xfer_size"`
	PageSizes   *json.Number `json:"pgsizes"`
	MaxDMAMaps  *json.Number `json:"max_dma_maps"`
}

// version negotiates. What it refuses ends the session, since client and server then have no
// version in common; a second VERSION does not.
func (s *Session) version(m *Message) ([]byte, error) {
	if s.state.negotiated {
		return nil, refuse(unix.EINVAL, "the version is negotiated already")
	}
	v, err := ParseVersion(m.Payload)
	if err != nil {
		return nil, err
	}
	if v.Major != major {
		return nil, refuse(unix.ENOTSUP, "major version %d, only %d is supported", v.Major, major)
	}
	caps, err := parseCapabilities(v.Data)
	if err != nil {
		return nil, refuse(unix.EINVAL, "%v", err)
	}
	maxData := uint64(MaxData)
	if caps.MaxDataXfer != nil {
		if maxData, err = number(caps.MaxDataXfer, "max_data_xfer_size"); err != nil {
			return nil, refuse(unix.EINVAL, "%v", err)
		}
	}
	for _, c := range []struct {
		n    *json.Number
		name string
	}{{caps.MaxMsgFDs, "max_msg_fds"}, {caps.PageSizes, "pgsizes"}, {caps.MaxDMAMaps, "max_dma_maps"}} {
		if c.n == nil {
			continue
		}
		n, err := number(c.n, c.name)
		if err != nil {
			return nil, refuse(unix.EINVAL, "%v", err)
		}
		if c.n == caps.PageSizes && n&PageSize == 0 {
			return nil, refuse(unix.EINVAL, "pgsizes %#x: DMA maps in pages of %d bytes are needed", n, PageSize)
		}
	}
	s.state.negotiated = true
	s.state.minor = min(v.Minor, maxMinor)
	s.state.maxData = uint32(min(maxData, MaxData))
	return VersionData{major, s.state.minor, appendCapabilities(nil, caps, len(v.Data))}.Append(nil), nil
}

// parseCapabilities reads the version data, which may be absent.
func parseCapabilities(data []byte) (*capabilities, error) {
	if len(data) == 0 {
		return &capabilities{}, nil
	}
	if len(data) > maxVersionData {
		return nil, fmt.Errorf("version data of %d bytes, at most %d", len(data), maxVersionData)
	}
	if data[len(data)-1] != 0 {
		return nil, fmt.Errorf("version data without a NUL at its end")
	}
	var v struct {
		Capabilities capabilities `json:"capabilities"`
	}
	if err := json.Unmarshal(data[:len(data)-1], &v); err != nil {
		return nil, fmt.Errorf("version data: %s", clip(err.Error()))
	}
	return &v.Capabilities, nil
}

// number is a capability that is a number: an integer of 64 bits without a sign.
func number(n *json.Number, name string) (uint64, error) {
	var u uint64
	if err := json.Unmarshal([]byte(*n), &u); err != nil {
		return 0, fmt.Errorf("%s is %q, it has to be an integer of 64 bits", name, clip(n.String()))
	}
	return u, nil
}

// clip shortens what a client has sent, for a log.
func clip(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}

// appendCapabilities appends those of this end that the client has proposed, since a reply
// has to be a subset of them. It appends at most room bytes: QEMU refuses a reply that is
// longer than its request. What does not fit is left out from the end, and the protocol's
// default applies.
func appendCapabilities(b []byte, c *capabilities, room int) []byte {
	var parts []string
	for _, p := range []struct {
		proposed *json.Number
		name     string
		ours     uint64
	}{
		{c.MaxMsgFDs, "max_msg_fds", MaxFDs},
		{c.MaxDMAMaps, "max_dma_maps", MaxMaps},
		{c.PageSizes, "pgsizes", PageSize},
		{c.MaxDataXfer, "max_data_xfer_size", MaxData},
	} {
		if p.proposed != nil {
			parts = append(parts, fmt.Sprintf("%q:%d", p.name, p.ours))
		}
	}
	for ; ; parts = parts[:len(parts)-1] {
		text := `{"capabilities":{` + strings.Join(parts, ",") + "}}\x00"
		if len(text) <= room {
			return append(b, text...)
		}
		if len(parts) == 0 {
			break
		}
	}
	if room >= len("{}\x00") {
		b = append(b, "{}\x00"...)
	}
	return b
}
