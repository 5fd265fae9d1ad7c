package daemon

import (
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/internal/silentfs"
)

// lingering are the links of descriptors whose last close waits, to be closed by a test
// once it has released them all.
type lingering []string

func (l *lingering) close(t *testing.T) {
	// What is being closed must not be closed by us as well.
	for _, closing := foreign.Left(); closing > 0; _, closing = foreign.Left() {
		time.Sleep(time.Millisecond)
	}
	for _, what := range *l {
		silentfs.CloseAll(t, what)
	}
}

// send connects, and sends half a message with such a descriptor: the last one is the
// daemon's.
func (l *lingering) send(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	fd, _ := silentfs.Lingering(t)
	*l = append(*l, silentfs.Link(fd))
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, _, err := c.WriteMsgUnix(make([]byte, 8), unix.UnixRights(fd), nil); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fd)
	return c
}

// What front-ends send that are never let in stops nobody: not the one that is served, not
// the one that comes after it, not the end of the daemon.
func TestLingeringNewcomers(t *testing.T) {
	var l lingering
	t.Cleanup(func() { l.close(t) }) // after those of send
	c := socketConfig(t)
	d := startDaemon(t, c)
	first := connect(t, c.SocketPath)
	second := l.send(t, c.SocketPath)
	d.book.Wait(1, ": refused, ")
	if n, err := second.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("the refused one reads %d bytes, %v", n, err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := connect(t, c.SocketPath).Close(); err != nil {
		t.Fatal(err)
	}
	_ = l.send(t, c.SocketPath).Close() // served, and left with half a message
	third := connect(t, c.SocketPath)
	for range 3 { // one waits, others are in the backlog
		l.send(t, c.SocketPath)
	}
	d.end()
	_ = third.Close()
}

// When too much is left over of what newcomers have sent, the front-end that is served goes
// on. The daemon ends once that has left, with an error.
func TestExhaustedByNewcomers(t *testing.T) {
	var l lingering
	t.Cleanup(func() { l.close(t) })
	was := foreign.Limit
	t.Cleanup(func() { foreign.Limit = was })
	left, _ := foreign.Left()
	foreign.Limit = left + 1
	c := socketConfig(t)
	d := startDaemon(t, c)
	first := connect(t, c.SocketPath)
	l.send(t, c.SocketPath)
	d.book.Wait(1, ": refused, ")
	for !foreign.Exhausted() { // it is closed a moment later
		time.Sleep(time.Millisecond)
	}
	for range 3 {
		if _, err := first.Features(); err != nil {
			t.Fatal(err)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-d.done; err == nil || !strings.Contains(err.Error(), "descriptors that cannot be closed") {
		t.Errorf("it ended with: %v\n%s", err, d.book)
	}
}
