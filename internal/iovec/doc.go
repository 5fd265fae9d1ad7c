// Package iovec walks, cuts, copies and zeroes vectors of memory (iovec, readv(2)). It
// is the one place that does so.
//
// The memory is a guest's, most of the time: its front-end can take it away, and the
// guest can change it at any moment. The functions that touch it say so; each byte is
// read once. It imports internal/memfault and nothing else of this module.
package iovec
