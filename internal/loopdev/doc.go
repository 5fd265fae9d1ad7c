// Package loopdev makes loop devices and ext4 file systems on them, for tests, which need
// root for it. Nothing of it stays behind when the tests end, nor when their process is
// killed. It is for tests only and imports the standard library and golang.org/x/sys.
package loopdev
