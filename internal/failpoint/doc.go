// Package failpoint lets tests kill the daemon at chosen points of its code. In what is
// shipped it does nothing and leaves nothing behind; with the build tag
// zvhost_failpoints a process reads from the file that $ZVHOST_FAILPOINT names at
// which point to die and the how many'th time that it comes there, and removes the
// file, so that the process after it is left alone.
//
// What lives here: the points' names (points.go) and what happens at one. It imports the
// standard library and golang.org/x/sys/unix, and may be imported by every package
// that has such a point.
package failpoint
