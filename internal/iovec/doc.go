// Package iovec walks, cuts, copies and zeroes vectors of memory (iovec, readv(2)). No other
// package does so.
//
// The memory is usually a guest's: its front-end can remove it, and the guest can change it at
// any moment. The functions that access it say so; each byte is read once. It imports
// internal/memfault and nothing else of this module.
package iovec
