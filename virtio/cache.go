package virtio

import (
	"sync/atomic"

	"github.com/zvhost/zvhost/internal/plant"
)

// cacheFeatures are the features on which the cache mode depends.
const cacheFeatures = BlkFeatureFlush | BlkFeatureConfigWCE

// cacheMode is what a device knows of the cache mode that its driver assumes.
//
// A driver that was shown write-through (the field writeback is 0), or has chosen it, may
// never send a FLUSH again, and its front-end may continue to show it the old value: Linux
// reads the field before the front-end passes on the accepted features, and QEMU's
// vhost-user-blk reads it once and keeps it over resets and new connections. So from then
// on writes are stable before they are done, until a driver that has negotiated FLUSH or
// CONFIG_WCE writes 1 to the field. If the mode is not known it is write-through.
//
// It belongs to the session's goroutine, except through.
type cacheMode struct {
	// promised: the driver was, or may have been, shown write-through, or has chosen it.
	promised bool
	// fresh: the front-end has just connected and has sent nothing about a guest yet.
	fresh bool
	// read: the front-end has read the field since it connected.
	read bool
	// known: what the guest was shown before the front-end connected is known, from the
	// previous process or the source host. It holds as long as the rings run.
	known bool
	// through: a write must be stable before it is done.
	through atomic.Bool
}

// WriteThrough reports whether writes must be stable before they are done. Any goroutine
// may call it.
func (b *Blk) WriteThrough() bool { return b.cache.through.Load() }

// neither reports whether the driver has accepted neither FLUSH nor CONFIG_WCE. Then it may
// assume that writes are stable ("Device Operation", case 1).
func (b *Blk) neither() bool { return b.set && b.negotiated.Load()&cacheFeatures == 0 }

// applyCacheMode applies the cache mode to requests that are decoded from here on.
func (b *Blk) applyCacheMode() { b.cache.through.Store(b.cache.promised || b.neither()) }

// negotiateCacheMode adapts the mode to newly accepted features ("Device Initialization").
// They never make the mode weaker than what was shown, since the driver that accepts them
// has been shown it already.
func (b *Blk) negotiateCacheMode(acked uint64) {
	was := b.negotiated.Load() & cacheFeatures
	if now := acked & cacheFeatures; now == BlkFeatureConfigWCE && (!b.set || was != now) {
		b.cache.promised = true // with CONFIG_WCE alone writeback MUST be 0
	}
	if acked != 0 { // some front-ends negotiate vhost-user's own bits first, with nothing else
		b.cache.fresh = false
	}
}

// showWriteback is the field writeback as the front-end reads it: 1 is write-back.
func (b *Blk) showWriteback() bool {
	c := &b.cache
	if c.fresh {
		// A front-end that begins by reading the field shows that value to its guest: what
		// an earlier guest was shown does not matter any more.
		c.promised, c.fresh = false, false
	} else {
		b.doubtCacheMode()
	}
	c.read = true
	// A device whose driver has accepted no feature at all has no cache: see above.
	if b.neither() && b.negotiated.Load() != 0 {
		c.promised = true
	}
	b.applyCacheMode()
	return !c.promised
}

// doubtCacheMode makes the mode write-through if the front-end has passed on that its
// driver uses the field, and has not read it before: it shows the driver a value from
// elsewhere.
func (b *Blk) doubtCacheMode() (doubtful bool) {
	c := &b.cache
	if plant.WriteBack || c.read || c.known || c.promised || b.negotiated.Load()&BlkFeatureConfigWCE == 0 {
		return false
	}
	c.promised = true
	return true
}

// BeginRing is called when a ring is about to start; usedBefore means that its driver has
// used it before the front-end connected. It reports whether the device is write-through
// from here on because it is not known what that driver was shown.
func (b *Blk) BeginRing(usedBefore bool) (doubtful bool) {
	c := &b.cache
	c.fresh = false
	if doubtful = b.doubtCacheMode(); usedBefore && !c.known && !c.promised {
		c.promised, doubtful = true, true
	}
	b.applyCacheMode()
	return doubtful
}

// EndRings is called when no ring runs any more. A ring that later continues in the middle,
// but not where it was stopped, may belong to another guest: one that was saved and is
// restored.
func (b *Blk) EndRings() { b.cache.known = false }

// RememberCacheMode passes what is known from elsewhere about the driver: whether it may
// assume that writes are stable. It never makes the mode weaker.
func (b *Blk) RememberCacheMode(through bool) {
	b.cache.promised = b.cache.promised || through
	b.cache.fresh, b.cache.known = false, true
	b.applyCacheMode()
}

// The bits of CacheMode.
const (
	CachePromised uint64 = 1 << iota // the driver may assume that writes are stable
	CacheFresh                       // the front-end has sent nothing about a guest yet
	CacheRead                        // it has read the field
	CacheKnown                       // what the guest was shown before it connected is known
)

// CacheMode is the part of the cache mode that the next process needs to continue the
// session.
func (b *Blk) CacheMode() (bits uint64) {
	c := &b.cache
	for i, on := range [...]bool{c.promised, c.fresh, c.read, c.known} {
		if on {
			bits |= 1 << i
		}
	}
	return bits
}

// RestoreCacheMode restores what CacheMode returned in the previous process.
func (b *Blk) RestoreCacheMode(bits uint64) {
	c := &b.cache
	c.promised, c.fresh = bits&CachePromised != 0, bits&CacheFresh != 0
	c.read, c.known = bits&CacheRead != 0, bits&CacheKnown != 0
	b.applyCacheMode()
}
