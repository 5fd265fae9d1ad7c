// Package memfault tells a fault on memory that somebody else can take away (guest
// memory whose file was made shorter, a mapped table on a failing file system) from a bug.
// It imports nothing of this module.
package memfault
