// Package memfault tells a bug from a fault on memory that another process or the file system
// can remove (guest memory whose file was truncated, a mapped table on a failing file system).
// It imports nothing of this module.
package memfault
