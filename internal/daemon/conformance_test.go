package daemon

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/frontend"
)

// "The device MUST handle spurious notifications from the driver" (virtio,
// "Available Buffer Notification Suppression").
func TestSpuriousKicks(t *testing.T) {
	c := socketConfig(t)
	d := startDaemon(t, c)
	client, err := frontend.Dial(c.SocketPath)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := frontend.Open(client, frontend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	q := disk.Queue(0)
	sector := uint64(disk.Config.ZoneSectors)
	data, got := bytes.Repeat([]byte("spurious"), 512), make([]byte, 4096)
	spurious := func() {
		if _, err := unix.Write(q.KickFD(), []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		spurious()
	}
	at, err := q.Append(data, sector)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		spurious()
		if err := q.Read(got, at); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("between kicks for nothing: %v", err)
		}
	}
	if err := disk.Close(); err != nil {
		t.Fatal(err)
	}
	d.end()
}
