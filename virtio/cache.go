package virtio

import (
	"sync/atomic"

	"github.com/zvhost/zvhost/internal/plant"
)

// cacheFeatures are the features that the cache mode hangs on.
const cacheFeatures = BlkFeatureFlush | BlkFeatureConfigWCE

// cacheMode is what a device knows of the cache mode that its driver believes in.
//
// A driver that was shown write-through (the field writeback is 0), or has chosen it,
// may send no FLUSH ever after, and its front-end may go on to show it what it was
// shown once: Linux reads the field before the front-end passes on what features it
// takes, and QEMU's vhost-user-blk reads it once in its life and keeps it over resets
// and new connections. So from then on writes are stable before they are done, until a
// driver that has negotiated FLUSH or CONFIG_WCE writes 1 to the field. What is not
// known is taken for write-through.
//
// It belongs to the session's goroutine, but for through.
type cacheMode struct {
	// promised says that the driver was shown write-through, or has chosen it, or may
	// have been or done so.
	promised bool
	// fresh says that the front-end has just come and has said nothing of a guest yet.
	fresh bool
	// read says that the front-end has read the field since it came.
	read bool
	// known says that what the guest was shown before the front-end came is known, from
	// the process or the host that it comes from. It holds as long as the rings run.
	known bool
	// through says that a write must be stable before it is done.
	through atomic.Bool
}

// WriteThrough says whether writes are to be stable before they are done. Any
// goroutine may ask.
func (b *Blk) WriteThrough() bool { return b.cache.through.Load() }

// neither says whether the driver has taken neither FLUSH nor CONFIG_WCE. It may take
// writes for stable then ("Device Operation", case 1).
func (b *Blk) neither() bool { return b.set && b.negotiated.Load()&cacheFeatures == 0 }

// applyCacheMode has requests that are decoded from here on obey the cache mode.
func (b *Blk) applyCacheMode() { b.cache.through.Store(b.cache.promised || b.neither()) }

// negotiateCacheMode is about features that are taken in the place of those before
// ("Device Initialization"). They never make the mode weaker than what was shown: where
// they came from has been shown it already.
func (b *Blk) negotiateCacheMode(acked uint64) {
	was := b.negotiated.Load() & cacheFeatures
	if now := acked & cacheFeatures; now == BlkFeatureConfigWCE && (!b.set || was != now) {
		b.cache.promised = true // with CONFIG_WCE alone writeback MUST be 0
	}
	if acked != 0 { // some negotiate vhost-user's own bits before, with nothing else
		b.cache.fresh = false
	}
}

// showWriteback is the field writeback as the front-end reads it: 1 says write-back.
func (b *Blk) showWriteback() bool {
	c := &b.cache
	if c.fresh {
		// A front-end that begins by reading the field shows that to its guest: what a
		// guest before it was shown is of no interest any more.
		c.promised, c.fresh = false, false
	} else {
		b.doubtCacheMode()
	}
	c.read = true
	// A device whose driver has taken nothing at all has none: see above.
	if b.neither() && b.negotiated.Load() != 0 {
		c.promised = true
	}
	b.applyCacheMode()
	return !c.promised
}

// doubtCacheMode takes the mode for write-through where the front-end has passed on
// that its driver takes the field, and has not read it before: it shows what somebody
// else has told it.
func (b *Blk) doubtCacheMode() (doubtful bool) {
	c := &b.cache
	if plant.WriteBack || c.read || c.known || c.promised || b.negotiated.Load()&BlkFeatureConfigWCE == 0 {
		return false
	}
	c.promised = true
	return true
}

// BeginRing says that a ring is about to start; usedBefore, that its driver has used it
// before the front-end came. It says whether the device is write-through from here on
// because nobody knows what that driver was shown.
func (b *Blk) BeginRing(usedBefore bool) (doubtful bool) {
	c := &b.cache
	c.fresh = false
	if doubtful = b.doubtCacheMode(); usedBefore && !c.known && !c.promised {
		c.promised, doubtful = true, true
	}
	b.applyCacheMode()
	return doubtful
}

// EndRings says that no ring runs any more. A ring that goes on in midstream from here
// on, but where it was stopped, may be another guest's: one that was saved and comes
// back.
func (b *Blk) EndRings() { b.cache.known = false }

// RememberCacheMode tells what is known from elsewhere of what the driver was shown:
// whether it may take writes for stable. It never makes the mode weaker.
func (b *Blk) RememberCacheMode(through bool) {
	b.cache.promised = b.cache.promised || through
	b.cache.fresh, b.cache.known = false, true
	b.applyCacheMode()
}

// What CacheMode has in its bits.
const (
	CachePromised uint64 = 1 << iota // the driver may take writes for stable
	CacheFresh                       // the front-end has said nothing of a guest yet
	CacheRead                        // it has read the field
	CacheKnown                       // what the guest was shown before it came is known
)

// CacheMode is what the device has to remember of the cache mode when another process
// goes on with its session.
func (b *Blk) CacheMode() (bits uint64) {
	c := &b.cache
	for i, on := range [...]bool{c.promised, c.fresh, c.read, c.known} {
		if on {
			bits |= 1 << i
		}
	}
	return bits
}

// RestoreCacheMode puts back what CacheMode was in the process before.
func (b *Blk) RestoreCacheMode(bits uint64) {
	c := &b.cache
	c.promised, c.fresh = bits&CachePromised != 0, bits&CacheFresh != 0
	c.read, c.known = bits&CacheRead != 0, bits&CacheKnown != 0
	b.applyCacheMode()
}
