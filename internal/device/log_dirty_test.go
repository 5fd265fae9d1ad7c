package device

import (
	"bytes"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// A machine's memory is copied while it reads from the disk, as a live migration
// does it: once as a whole, then the pages that the log has, again and again, and
// at last once more when the queue has been stopped. The copy then has everything
// that the device wrote.
func TestDirtyLogUnderLoad(t *testing.T) {
	for name, o := range rings {
		if o.Without&(1<<30) != 0 {
			continue // there is no log without protocol features
		}
		t.Run(name, func(t *testing.T) {
			r := plainRig(t, 1)
			o.BufferBytes = 8192
			g := r.connect(o)
			q := g.Queue(0)
			const disk = 1 << 20
			for at := 0; at < disk; at += 8192 {
				g.want("write", driver.StatusOK, q.Write(pattern(8192, uint64(at)), uint64(at)/512))
			}
			desc := g.Memory.Region.Desc()
			memory, err := g.Memory.Bytes(desc.GuestAddr, desc.Size)
			if err != nil {
				t.Fatal(err)
			}
			l, err := g.StartLog()
			if err != nil {
				t.Fatal(err)
			}
			// The page of each buffer is the device's while its request is in flight; of
			// all other pages the driver knows itself what it has changed.
			shadow := bytes.Clone(memory)
			marks := 0
			sync := func() {
				l.Take(func(at uint64) {
					marks++
					copy(shadow[at-desc.GuestAddr:][:guestmem.LogPageBytes], memory[at-desc.GuestAddr:])
				})
			}
			var done [32]*frontend.Request
			sector := uint64(0)
			for range 40 {
				for {
					req := q.Get()
					if req == nil {
						break
					}
					req.Type, req.Sector = driver.TypeIn, sector
					req.SetLen(8192)
					sector = (sector + 16) % (disk / 512)
					if err := q.Submit(req); err != nil {
						q.Put(req)
						if errors.Is(err, driver.ErrFull) {
							break
						}
						t.Fatal(err)
					}
				}
				if err := q.Kick(); err != nil {
					t.Fatal(err)
				}
				sync()
				n, err := q.Wait(done[:])
				if err != nil {
					t.Fatal(err)
				}
				for _, req := range done[:n] {
					q.Put(req)
				}
			}
			if _, err := q.Stop(); err != nil {
				t.Fatal(err)
			}
			sync()
			compared := 0
			for req := q.Get(); req != nil; req = q.Get() {
				b := req.Buffer()
				at, _ := g.Memory.GuestAddr(unix.Iovec{Base: &b[0], Len: uint64(len(b))})
				if !bytes.Equal(shadow[at-desc.GuestAddr:][:len(b)], b) {
					t.Error("a buffer was read into, and its pages were not marked")
				}
				compared++
			}
			used := q.Ring().Config().Used - desc.GuestAddr
			if page := used &^ (guestmem.LogPageBytes - 1); !o.Packed && !bytes.Equal(shadow[used:used+4], memory[used:used+4]) {
				t.Errorf("the used ring on page %#x is not marked", page)
			}
			if marks == 0 || compared == 0 {
				t.Errorf("%d marks, %d buffers compared", marks, compared)
			}
			if err := l.Stop(); err != nil {
				t.Fatal(err)
			}
			g.leave()
		})
	}
}
