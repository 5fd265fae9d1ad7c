// Package failpoint lets tests kill the daemon at chosen points of its code. In the shipped
// binary it does nothing and leaves no code. With the build tag zvhost_failpoints a process reads
// from the file that $ZVHOST_FAILPOINT names at which point to die, and at which time of reaching
// it, and removes the file, so that the next process does not die there.
//
// Contents: the names of the points (points.go) and the code that runs at one. It imports the
// standard library and golang.org/x/sys/unix, and may be imported by every package that has such
// a point.
package failpoint
