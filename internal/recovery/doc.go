// Package recovery decides what may be carried out again of the requests that an earlier
// process had begun, or may have begun, and what a guest was shown by it.
//
// What lives here: the decisions for one disk and the rings of its device (policy.go), the
// ones about a ring and about a request (ring.go), and what the in-flight record notes of
// the cache mode (cache.go). The words in the record are memory that a front-end can write
// to (inflight.Untrusted); they are checked here and nowhere else.
//
// It may import backend, virtio, virtio/transport and vhostuser/inflight. It carries out nothing
// and logs nothing: internal/device asks it.
//
// It implements the tables of docs/restart.md, "Requests in flight".
package recovery
