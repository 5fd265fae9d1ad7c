package frontend

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// SetLogBase gives the back-end a dirty log, size bytes of fd's file from offset on; needs
// LOG_SHMFD. It returns once no other log is in use.
func (c *Client) SetLogBase(fd int, size, offset uint64) error {
	p, err := c.Get(vhostuser.SetLogBase, vhostuser.LogArea{Size: size, Offset: offset}.Append(nil), fd)
	if err != nil {
		return err
	}
	if v, err := vhostuser.ParseU64(p); err != nil || v != 0 {
		return RefusedError{vhostuser.SetLogBase}
	}
	return nil
}

// SetLogFD passes an eventfd that the back-end signals when it has marked a page.
func (c *Client) SetLogFD(fd int) error { return c.Set(vhostuser.SetLogFD, nil, fd) }

// A DirtyLog makes the back-end mark the pages of guest memory that it writes, as during a
// migration.
type DirtyLog struct {
	d    *Disk
	file *foreign.FD
	log  *guestmem.Log
}

// StartLog starts logging in QEMU's order: the log, then the feature, then the used rings.
func (d *Disk) StartLog() (*DirtyLog, error) {
	r := d.Memory.Region.Desc()
	size := (r.GuestAddr+r.Size)/guestmem.LogPageBytes/8 + 1
	fd, err := unix.MemfdCreate("zvhost-log", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd for a dirty log: %w", err)
	}
	l := &DirtyLog{d: d, file: foreign.NewFD(fd)}
	err = unix.Ftruncate(fd, int64(size))
	if err == nil {
		l.log, err = guestmem.MapLog(fd, size, 0)
	}
	if err == nil {
		err = errors.Join(d.Client.SetLogBase(fd, size, 0), l.set(true))
	}
	if err != nil {
		return nil, errors.Join(err, l.free())
	}
	return l, nil
}

// set switches logging.
func (l *DirtyLog) set(on bool) error {
	d, flags := l.d, uint32(0)
	features := d.Features
	if on {
		features, flags = features|vhostuser.FeatureLogAll, vhostuser.VringLog
	}
	if err := d.Client.SetFeatures(features); err != nil {
		return err
	}
	for i := range d.Started() {
		a := d.addr(d.Queue(i))
		a.Flags, a.Log = flags, d.Queue(i).Ring().Config().Used
		if err := d.Client.SetVring(a); err != nil {
			return err
		}
	}
	return nil
}

// Take calls f with each marked page's guest address, and clears the marks: what f then
// reads of a page is at least as new as its mark.
func (l *DirtyLog) Take(f func(guestAddr uint64)) {
	r := l.d.Memory.Region.Desc()
	for at := r.GuestAddr; at < r.GuestAddr+r.Size; at += guestmem.LogPageBytes {
		if l.log.Dirty(at / guestmem.LogPageBytes) {
			f(at)
		}
	}
}

// Stop ends the logging; the back-end makes no mark after it.
func (l *DirtyLog) Stop() error { return errors.Join(l.set(false), l.free()) }

// Free releases a log that no back-end uses any more, since the disk has moved.
func (l *DirtyLog) Free() error { return l.free() }

func (l *DirtyLog) free() error {
	var err error
	if l.log != nil {
		err = l.log.Unmap()
	}
	return errors.Join(err, l.file.Close())
}
