package vhostuser

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/handover"
)

// An answer that found the socket full waits for the front-end to read, also when that
// has happened before the wait begins.
func TestWaitWritable(t *testing.T) {
	c, d := conns(t)
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

// However many parts a message has, and each of them descriptors, no more of them are
// held than a message may have.
func TestPeekedDescriptors(t *testing.T) {
	for _, parts := range []int{handover.MaxPieces, HeaderSize} {
		a, b := conns(t)
		fd := eventFD(t)
		wire := Header{GetFeatures, Version, 0}.Append(nil)
		for i := range parts {
			end := i + 1
			if end == parts {
				end = len(wire)
			}
			if err := a.WriteRaw(wire[i:end], fd, fd, fd, fd, fd); err != nil {
				t.Fatal(err)
			}
		}
		m := new(Message)
		pieces, err := b.readAheadInto(m)
		if len(m.Files) != MaxTableRegions || m.Surplus < 5*handover.MaxPieces-MaxTableRegions || m.Surplus > 5*(handover.MaxPieces+1)-MaxTableRegions {
			t.Errorf("%d parts: %d descriptors are held and %d were too many", parts, len(m.Files), m.Surplus)
		}
		if tooMany := parts > handover.MaxPieces; tooMany && (err == nil || !strings.Contains(err.Error(), "in more than 4 places")) || !tooMany && (err != nil || len(pieces) != parts) {
			t.Errorf("%d parts: %d pieces, %v", parts, len(pieces), err)
		}
		m.Close()
	}
}
