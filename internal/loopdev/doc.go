// Package loopdev creates loop devices and ext4 file systems on them, for tests, which need root
// for it. They disappear when the tests end, also if their process is killed. It is for tests
// only and imports the standard library and golang.org/x/sys.
package loopdev
