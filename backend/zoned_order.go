package backend

// An openOrder lists the implicitly open zones of a disk, the oldest first: that one is closed
// when the open zones are used up. It belongs to the disk's resources: every method needs
// their lock. The links are made once, so that no change allocates.
type openOrder struct {
	links          []openLink // by zone
	oldest, newest int32      // zones, as their number + 1; 0 for none
}

// An openLink has the neighbours of a zone in an openOrder, as their number + 1.
type openLink struct{ older, newer int32 }

func newOpenOrder(zones int) openOrder { return openOrder{links: make([]openLink, zones)} }

// addLocked makes zone i, which is not in the list, the newest.
func (o *openOrder) addLocked(i int) {
	n := int32(i + 1)
	o.links[i] = openLink{older: o.newest}
	if o.newest == 0 {
		o.oldest = n
	} else {
		o.links[o.newest-1].newer = n
	}
	o.newest = n
}

// removeLocked takes zone i, which is in the list, out of it.
func (o *openOrder) removeLocked(i int) {
	l := o.links[i]
	if l.older == 0 {
		o.oldest = l.newer
	} else {
		o.links[l.older-1].newer = l.newer
	}
	if l.newer == 0 {
		o.newest = l.older
	} else {
		o.links[l.newer-1].older = l.older
	}
	o.links[i] = openLink{}
}

// oldestLocked is the oldest zone, -1 where there is none.
func (o *openOrder) oldestLocked() int { return int(o.oldest) - 1 }

// afterLocked is the next newer zone behind zone i, -1 where there is none.
func (o *openOrder) afterLocked(i int) int { return int(o.links[i].newer) - 1 }
