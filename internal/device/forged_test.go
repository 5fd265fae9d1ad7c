package device

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// Whatever a front-end stores in the record of requests in flight while its ring is
// stopped, and gives back: the ring is served or broken, and the daemon lives.
func TestForgedRecord(t *testing.T) {
	rigs := map[string]func(*testing.T) *rig{"null": func(t *testing.T) *rig { return nullRig(t, 1) }}
	for kind, open := range cacheRigs {
		rigs[kind] = open
	}
	const size = 8
	values := []uint64{0, 1, 2, 3, 4, 5, 0x10001, 1<<63 - 1, 1 << 63, ^uint64(0), 128<<8 | 1, 128<<8 | 3, 1<<48 | 200<<8 | 4}
	for kind, open := range rigs {
		for _, packed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, packed %v", kind, packed), func(t *testing.T) {
				r := open(t)
				words := 0
				for word := 0; word == 0 || word < words; word++ {
					g := r.connect(frontend.Options{Inflight: true, Packed: packed, QueueSize: size, Depth: 2, BufferBytes: 4096, Without: driver.FeatureIndirectDesc})
					q := g.Queue(0)
					g.want("read", driver.StatusOK, q.Read(make([]byte, 4096), 0))
					base, err := q.Stop()
					if err != nil {
						t.Fatal(err)
					}
					mem := g.recordMemory()
					words = min(len(mem)/8, 120)
					for _, v := range values {
						for k := range 8 {
							mem[8*word+k] = byte(v >> (8 * k))
						}
						if err := g.Client.SetInflight(g.Disk.Inflight()); err != nil {
							continue // refused
						}
						if err := q.Start(base); err != nil {
							continue
						}
						if base, err = q.Stop(); err != nil {
							t.Fatalf("word %d, %#x: %v\n%s", word, v, err, r.book)
						}
					}
					g.vanish()
				}
				r.nextIsServed()
			})
		}
	}
}

// recordMemory is the memory of the front-end's record.
func (g *guest) recordMemory() []byte {
	g.r.t.Helper()
	fd := g.Disk.Inflight().FD()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		g.r.t.Fatal(err)
	}
	mem, err := unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		g.r.t.Fatal(err)
	}
	g.r.t.Cleanup(func() { _ = unix.Munmap(mem) })
	return mem
}
