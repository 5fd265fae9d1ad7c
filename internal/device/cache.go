package device

import (
	"github.com/zvhost/zvhost/internal/recovery"
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio"
)

// The cache mode that the guest was shown (virtio/cache.go) is noted in the record of
// requests in flight as well, for the process that continues after this one has died.

// readCacheNote takes over the cache mode in r, if another process has used it. A front-end
// that has changed it can make the mode stronger, or make this process trust a mode that it
// would otherwise assume to be unknown, as it can with the state of its rings; it cannot
// weaken a mode that this process knows.
func (d *Device) readCacheNote(r *inflight.Record) {
	if r == nil {
		return
	}
	if n := recovery.CacheOf(r); n != recovery.CacheUnknown {
		d.RememberCacheMode(n == recovery.CacheWriteThrough)
	}
	d.noted = r
	d.noteCache()
}

// noteCache stores in the record which cache mode the guest was shown, before the front-end
// is answered.
func (d *Device) noteCache() {
	note := recovery.CacheUnknown
	switch mode := d.CacheMode(); {
	case mode&virtio.CachePromised != 0:
		note = recovery.CacheWriteThrough
	case mode&(virtio.CacheRead|virtio.CacheKnown) != 0:
		note = recovery.CacheWriteBack
	}
	recovery.NoteCache(d.noted, note)
}

// BeginFrontEnd implements transport.Device.
func (d *Device) BeginFrontEnd() {
	d.Blk.BeginFrontEnd()
	d.noted = nil // it is about to be unmapped
}

// ReadConfig implements transport.Device.
func (d *Device) ReadConfig(dst []byte, off uint32) error {
	was := d.CacheMode()
	err := d.Blk.ReadConfig(dst, off)
	if d.noteCache(); d.CacheMode()&^was&virtio.CachePromised != 0 {
		d.logMove("the guest is shown a write-through disk (its driver, or a firmware before it, has taken neither FLUSH nor CONFIG_WCE, or its front-end has not said what it was shown before): each write is stored before it is answered, %s", untilSetBack)
	}
	return err
}

// WriteConfig implements transport.Device.
func (d *Device) WriteConfig(src []byte, off uint32) error {
	err := d.Blk.WriteConfig(src, off)
	d.noteCache()
	return err
}

// SetFeatures implements transport.Device.
func (d *Device) SetFeatures(acked uint64) error {
	err := d.Blk.SetFeatures(acked)
	d.noteCache()
	return err
}

// BeginRing implements transport.Device.
func (d *Device) BeginRing(usedBefore bool) {
	if d.Blk.BeginRing(usedBefore) {
		d.logUnknownCacheMode()
	}
	d.noteCache()
}

func (d *Device) logUnknownCacheMode() {
	d.logMove("nobody knows whether the guest was shown a write-through disk, for it has used this one through another zvhost, or another session: each write is stored before it is answered, %s", untilSetBack)
}

// untilSetBack is how a guest gets its write-back cache back. A front-end may not pass on
// what it takes for no change, so that it takes two steps.
const untilSetBack = `until the guest sets its cache mode to "write through" and then to "write back" (in Linux: /sys/block/*/cache_type)`
