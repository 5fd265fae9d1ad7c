package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/zvhost/zvhost/integration/rig"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// agree looks at the zones in three ways: as a guest, by zvhost report, and as
// the kernel has them (blkzone report). Write pointers are compared where they
// mean something: in zones that are empty, open or closed.
func (h *host) agree(disk *frontend.Disk) ([]driver.Zone, error) {
	guest, err := disk.Queue(0).ReportAll()
	if err != nil {
		return nil, fmt.Errorf("the guest's report: %w", err)
	}
	report := []string{"report", h.device}
	var first int
	if h.zones != "" {
		report = append(report, "--zones", h.zones)
		if _, err := fmt.Sscanf(h.zones, "%d-", &first); err != nil {
			return nil, err
		}
	}
	ours, err := lines(h.zvhost, report, 0, len(guest))
	if err != nil {
		return nil, err
	}
	kernel, err := lines("blkzone", []string{"report", h.device}, first, len(guest))
	if err != nil {
		return nil, err
	}
	for i := range guest {
		kernel[i].Start -= kernel[0].Start * min(1, uint64(i))
	}
	kernel[0].Start = 0
	for i := range guest {
		z := guest[i]
		if z.WP -= z.Start; !pointed(z.State) {
			z.WP = 0
		}
		if z != ours[i] || z != kernel[i] {
			return nil, fmt.Errorf("zone %d: the guest has %+v, zvhost report %+v, and the kernel %+v", i, z, ours[i], kernel[i])
		}
	}
	return guest, nil
}

// pointed says whether zones in that state have a write pointer.
func pointed(state uint8) bool { return state >= driver.ZoneEmpty && state <= driver.ZoneClosed }

// lines runs a program that reports as blkzone does, and reads n of its zones.
// Their write pointers count from the zone's start.
func lines(program string, args []string, first, n int) ([]driver.Zone, error) {
	out, err := rig.Run(program, args...)
	if err != nil {
		return nil, err
	}
	text := strings.Split(out, "\n")
	if len(text) < first+n {
		return nil, fmt.Errorf("%s reports %d zones and not %d", program, len(text), first+n)
	}
	zones := make([]driver.Zone, n)
	for i := range zones {
		z := &zones[i]
		var length uint64
		var reset, nonSeq int
		line := strings.TrimSpace(text[first+i])
		_, err := fmt.Sscanf(line, "start: 0x%x, len 0x%x, cap 0x%x, wptr 0x%x reset:%d non-seq:%d, zcond:%d",
			&z.Start, &length, &z.Capacity, &z.WP, &reset, &nonSeq, &z.State)
		_, after, found := strings.Cut(line, "[type: ")
		if err == nil && found {
			_, err = fmt.Sscanf(after, "%d", &z.Type)
		}
		if err != nil {
			return nil, fmt.Errorf("%s says %q: %w", program, line, err)
		}
		if !pointed(z.State) {
			z.WP = 0
		}
	}
	return zones, nil
}

// asKernel is how the kernel reports all zones of the drive.
func (h *host) asKernel() (string, error) { return rig.Run("blkzone", "report", h.device) }

// agreeOnce is drives agree.
func (h *host) agreeOnce() (string, error) {
	disk, err := h.connect(bufferBytes)
	if err != nil {
		return "", err
	}
	zones, err := h.agree(disk)
	return fmt.Sprintf("%d zones agree in three reports", len(zones)), errors.Join(err, disk.Close())
}
