// Package recovery decides which requests that a previous process had begun, or may have
// begun, may be carried out again, and which cache mode a guest was shown by it.
//
// A Policy is about one disk and the rings of its device (policy.go). Its Ring for each queue
// gives a verdict on each request (ring.go). cache.go is about the cache mode in the
// in-flight record. The words of the record are memory that a front-end can write to
// (inflight.Untrusted); they are checked here and nowhere else.
//
// It may import backend, virtio, virtio/transport and vhostuser/inflight. It carries out
// nothing and logs nothing: internal/device asks it.
//
// It implements the tables of docs/restart.md, "What may be carried out again" and "Requests
// in flight".
package recovery
