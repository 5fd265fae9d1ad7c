// Package engine moves bytes between guest memory and files, asynchronously,
// behind one small interface. An Engine belongs to one queue worker.
//
// It may import golang.org/x/sys/unix and, for the engines that need it,
// internal/uring. It knows nothing of zones, requests or guests.
package engine
