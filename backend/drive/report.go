package drive

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
)

// ReadReport reads the zones of the zoned block device at path, or of a window of it, as
// the device has them; they are numbered from the window's first one. It disturbs no
// process that serves them. It returns an error if the device cannot be opened or asked, or
// cannot be a disk (disk.ErrUnfit).
func ReadReport(path string, w *disk.Window) (disk.Report, error) {
	f, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return disk.Report{}, disk.CannotOpen("drive", path, err)
	}
	defer f.Close()
	d := &Drive{f: f, path: path}
	if err := d.survey(disk.Options{ReadOnly: true, Window: w}, false); err != nil {
		return disk.Report{}, fmt.Errorf("drive %s: %w", path, err)
	}
	lk := d.lock(unix.F_RDLCK)
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lk); err != nil {
		return disk.Report{}, fmt.Errorf("drive %s: look at the lock: %w", path, err)
	}
	rep := disk.Report{Info: d.info, InUse: lk.Type == unix.F_WRLCK, Zones: make([]zone.Descriptor, len(d.zones))}
	for i := range rep.Zones {
		rep.Zones[i] = d.ReportZone(i)
	}
	return rep, nil
}
