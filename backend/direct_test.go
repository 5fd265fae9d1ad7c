package backend

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/engine"
)

// However large requests are that a device cannot reach, and however many, what is
// copied at a time has a limit; and they come back as they were.
func TestDetours(t *testing.T) {
	const n, each = disk.MaxBounces + 3, 2*disk.BounceBytes + 8192
	want := make([]byte, n*each)
	disktest.FillSectors(want, func(i int) byte { return byte(i ^ i>>8) })
	onEachEngine(t, func(t *testing.T, dir string, o disk.Options, kind engine.Kind) {
		path := filepath.Join(dir, "plain")
		if err := os.WriteFile(path, make([]byte, n*each), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := Open(path, o)
		if err != nil {
			t.Fatal(err)
		}
		c := disktest.NewClientOn(t, d, kind.Open)
		for _, op := range []disk.Op{disk.OpWrite, disk.OpRead} {
			rs, data := make([]*disk.Request, n), make([][]byte, n)
			for i := range rs {
				data[i] = make([]byte, each+1)[1:]
				if op == disk.OpWrite {
					copy(data[i], want[i*each:])
				}
				rs[i] = &disk.Request{Op: op, Sector: uint64(i*each) >> disk.SectorShift, Bytes: each, Iov: []unix.Iovec{
					{Base: &data[i][0], Len: disk.BounceBytes - 1}, {Base: &data[i][disk.BounceBytes-1], Len: 2}, {Base: &data[i][disk.BounceBytes+1], Len: each - disk.BounceBytes - 1},
				}}
			}
			c.Submit(rs...)
			copied := 0
			for _, r := range rs {
				if r.Bounce != nil {
					copied += len(r.Bounce.Data)
				}
			}
			if most := disk.MaxBounces * disk.BounceBytes; copied > most {
				t.Errorf("%v: %d bytes are being copied at once, want at most %d", op, copied, most)
			}
			for range rs {
				if r := c.Wait(); r.Err != nil {
					t.Fatal(r.Err)
				}
			}
			for i, r := range rs {
				if r.IO.Off != int64(i*each) || r.IO.Len != each || r.IO.N != each || &r.IO.Iov[0] != &r.Iov[0] || r.Bounce != nil {
					t.Errorf("%v: request %d has become %d bytes at %d, %d moved", op, i, r.IO.Len, r.IO.Off, r.IO.N)
				}
				if op == disk.OpRead && !bytes.Equal(data[i], want[i*each:][:each]) {
					t.Errorf("request %d: not what was written", i)
				}
			}
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}
