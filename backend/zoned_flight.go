package backend

// writesInFlight are the writes of one zone that have an address and have not landed, in
// the order of their addresses. It belongs to the zone: every method needs the zone's lock.
// The links are in the requests, so that no write allocates.
type writesInFlight struct{ head, tail *zonedRequest }

func (l *writesInFlight) emptyLocked() bool { return l.head == nil }

// addLocked puts r at the end.
func (l *writesInFlight) addLocked(r *zonedRequest) { l.insertLocked(l.tail, r) }

// insertLocked puts r behind prev, or first where that is nil.
func (l *writesInFlight) insertLocked(prev, r *zonedRequest) {
	r.prev, r.next = prev, l.head
	if prev != nil {
		r.next = prev.next
	}
	l.linkLocked(r)
}

// removeLocked takes r out, which is in it.
func (l *writesInFlight) removeLocked(r *zonedRequest) {
	if r.prev == nil {
		l.head = r.next
	} else {
		r.prev.next = r.next
	}
	if r.next == nil {
		l.tail = r.prev
	} else {
		r.next.prev = r.prev
	}
	r.prev, r.next = nil, nil
}

// replaceLocked puts r into the place of old.
func (l *writesInFlight) replaceLocked(old, r *zonedRequest) {
	r.prev, r.next = old.prev, old.next
	old.prev, old.next = nil, nil
	l.linkLocked(r)
}

// linkLocked has the neighbours of r, which it knows, know r.
func (l *writesInFlight) linkLocked(r *zonedRequest) {
	if r.prev == nil {
		l.head = r
	} else {
		r.prev.next = r
	}
	if r.next == nil {
		l.tail = r
	} else {
		r.next.prev = r
	}
}
