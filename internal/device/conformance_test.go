package device

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/frontend"
)

// "The device MUST handle spurious notifications from the driver" (virtio,
// "Available Buffer Notification Suppression").
func TestSpuriousKicks(t *testing.T) {
	disk := zonedRig(t, rigGeometry, 1).connect(frontend.Options{})
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
	disk.leave()
}
