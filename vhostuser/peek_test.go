package vhostuser

import (
	"testing"

	"golang.org/x/sys/unix"
)

// An answer that found the socket full waits for the front-end to read, also when that
// has happened before the wait begins.
func TestWaitWritable(t *testing.T) {
	near, far := socketPair(t)
	c, d := NewConn(near), NewConn(far)
	defer func() { _ = c.Close() }()
	defer func() { _ = d.Close() }()
	block := make([]byte, 4096)
	until := func(c *Conn, move func(fd int) error) {
		t.Helper()
		err := c.control(func(fd uintptr) error {
			for {
				if err := move(int(fd)); err == unix.EAGAIN {
					return nil
				} else if err != nil {
					return err
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	until(c, func(fd int) error {
		_, err := unix.SendmsgN(fd, block, nil, nil, unix.MSG_DONTWAIT)
		return err
	})
	until(d, func(fd int) error {
		_, err := unix.Read(fd, block)
		return err
	})
	// The runtime must have heard of it: it looks for what has happened before it has
	// anybody sleep, so a reply that comes by way of another socket is later.
	a, b := socketPair(t)
	echo := make(chan error, 1)
	go func() {
		_, err := b.Read(make([]byte, 1))
		echo <- err
	}()
	if _, err := a.Write(block[:1]); err != nil {
		t.Fatal(err)
	}
	if err := <-echo; err != nil {
		t.Fatal(err)
	}
	_, _ = a.Close(), b.Close()
	if err := c.waitWritable(); err != nil {
		t.Fatal(err)
	}
}
