package backend

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/image/format"
	"github.com/zvhost/zvhost/backend/image/imagetest"
	"github.com/zvhost/zvhost/backend/zone"
)

// renumbered gives the newest state block number state, and the newest copy of each
// block of the committed table number table, and the other copies the numbers before.
// Each stays in its place, so both have to be odd or even as they were.
func renumbered(t *testing.T, path string, state, table uint64) {
	t.Helper()
	imagetest.Edit(t, path, func(f *os.File, l *format.Layout) {
		s, _, err := format.ReadState(f, l.UUID)
		if err != nil {
			t.Fatal(err)
		}
		move := func(off int64, at, sum int, newest, to uint64) {
			b := make([]byte, format.BlockBytes)
			if _, err := f.ReadAt(b, off); err != nil {
				t.Fatal(err)
			}
			n := binary.LittleEndian.Uint64(b[at:])
			if n > newest || newest-n >= to {
				t.Fatalf("number %d stands beside %d", n, newest)
			}
			binary.LittleEndian.PutUint64(b[at:], to-(newest-n))
			binary.LittleEndian.PutUint32(b[sum:], format.Checksum(b, sum))
			imagetest.Patch(t, f, b, off)
		}
		same := func(was, to uint64) uint64 { return to - (was+to)%2 } // in its place
		for i := range int64(2) {
			move(format.StateOff+i*format.BlockBytes, 8, 16, s.Seq, same(s.Seq, state))
		}
		_, seqs, _, err := format.ReadCommitted(f, l)
		if err != nil {
			t.Fatal(err)
		}
		for n, seq := range seqs {
			for c := range int64(2) {
				move(l.TableOff+(int64(2*n)+c)*format.BlockBytes, 8, 4, seq, same(seq, table))
			}
		}
	})
}

// farNumbers are where numbers on disk may have come to.
var farNumbers = []uint64{format.LateSeq - 2, format.LateSeq - 1, format.LateSeq, format.LateSeq + 1, format.LateSeq + 2, format.LastSeq - 3, format.LastSeq - 2, format.LastSeq - 1, format.LastSeq}

// An image of which numbers have come to their end is opened, closed and opened again,
// and nothing of it is lost, wherever the daemon is killed or a write is torn meanwhile.
func TestNumbersComeToTheirEnd(t *testing.T) {
	for _, clean := range []bool{true, false} {
		for _, far := range farNumbers {
			path := imagetest.NewFast(t, disktest.Small)
			data := disktest.Pattern('a', 4096)
			make := func() {
				d, fs := openFaulty(t, path)
				c := disktest.NewClient(t, d)
				c.WantError(c.Write(256, data), nil)
				c.WantError(c.Flush(), nil)
				if clean {
					imagetest.CloseDisk(t, d, path)
				} else {
					kill(t, d, fs)
				}
				renumbered(t, path, far, far)
				imagetest.WantClean(t, path)
			}
			make()
			for broken := 0; ; broken++ {
				n := 0
				d, err := openZonedOver(path, disk.Options{}, func(s image.Store) image.Store {
					return &faultStore{under: s, before: func(call storeCall) error {
						switch n++; {
						case n <= broken/2:
							return nil
						case n == broken/2+1 && broken%2 == 1:
							return tearing(s, 1000)(call)
						}
						return unix.EIO
					}}
				})
				if err != nil {
					imagetest.WantClean(t, path)
					if rep, err := ReadReport(path); err != nil || rep.Zones[2].WP != 264 {
						t.Fatalf("from %#x, write %d fails: %v, %+v", far, broken/2, err, rep)
					}
					continue
				}
				if err := d.img.Release(); err != nil { // killed before anything was done
					t.Fatal(err)
				}
				d.com.stop()
				break
			}
			d, fs := openFaulty(t, path)
			c := disktest.NewClient(t, d)
			if string(c.Read(256, 4096)) != string(data) {
				t.Errorf("from %#x: other data", far)
			}
			c.WantError(c.Write(264, data), nil)
			c.WantError(c.Flush(), nil)
			imagetest.Edit(t, path, func(f *os.File, l *format.Layout) {
				s, _, err := format.ReadState(f, l.UUID)
				if err != nil {
					t.Fatal(err)
				}
				_, seqs, _, err := format.ReadCommitted(f, l)
				if err != nil {
					t.Fatal(err)
				}
				if n := max(s.Seq, seqs[0]); n > format.LateSeq+100 {
					t.Errorf("from %#x: numbers go on at %#x", far, n)
				}
			})
			kill(t, d, fs)
			d, _ = openFaulty(t, path)
			c = disktest.NewClient(t, d)
			c.WantZone(2, zone.ImpOpen, 16)
			imagetest.CloseDisk(t, d, path)
			imagetest.CloseDisk(t, openDisk(t, path), path)
		}
	}
}

// A repair writes over a damaged copy, whatever the number of the good one.
func TestRepairAtTheEndOfNumbers(t *testing.T) {
	for _, far := range farNumbers {
		for damaged := range 2 {
			path := imagetest.NewFast(t, disktest.Small)
			d := openDisk(t, path)
			c := disktest.NewClient(t, d)
			c.WantError(c.Write(256, disktest.Pattern('a', 4096)), nil)
			imagetest.CloseDisk(t, d, path)
			renumbered(t, path, far, far)
			imagetest.Edit(t, path, func(f *os.File, l *format.Layout) {
				s, _, err := format.ReadState(f, l.UUID)
				if err != nil {
					t.Fatal(err)
				}
				// The older state block: the newer one is the only one that says that the image
				// was closed.
				imagetest.Patch(t, f, []byte("x"), format.StateOff+int64(s.Seq%2)*format.BlockBytes)
				imagetest.Patch(t, f, []byte("x"), l.TableOff+int64(damaged)*format.BlockBytes+100)
			})
			if mended, err := image.Repair(path, image.RepairSafe); err != nil || len(mended) != 2 {
				t.Errorf("from %#x: mended %q, %v", far, mended, err)
			}
			imagetest.WantClean(t, path)
			d = openDisk(t, path)
			disktest.NewClient(t, d).WantZone(2, zone.ImpOpen, 8)
			imagetest.CloseDisk(t, d, path)
		}
	}
}

// The number of an image's user begins anew behind the last one, and is never 0.
func TestUsersComeToTheirEnd(t *testing.T) {
	path := imagetest.NewFast(t, disktest.Small)
	var uuid uint64
	set := func(user uint64) {
		t.Helper()
		imagetest.Edit(t, path, func(f *os.File, l *format.Layout) {
			uuid = binary.LittleEndian.Uint64(l.UUID[:])
			s, _, err := format.ReadState(f, l.UUID)
			if err != nil {
				t.Fatal(err)
			}
			s.Run = user ^ uuid
			s.Seq++
			for range 2 {
				if err := s.Write(image.FileStore{FD: int(f.Fd())}, l.UUID); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	for _, before := range []uint64{0, 1, ^uint64(0) ^ uuid} {
		set(before)
		d := openDisk(t, path)
		seen := map[uint64]bool{0: true}
		for range 5 {
			run, err := disk.Renew(d)
			if err != nil || seen[run] || run != disk.Run(d) {
				err = errors.Join(err, errors.New("it was there already"))
				t.Errorf("from %#x: user %#x: %v", before, run, err)
			}
			seen[run] = true
		}
		imagetest.CloseDisk(t, d, path)
	}
	set(0)
	d := openDisk(t, path)
	if disk.Run(d) == 0 {
		t.Error("user 0")
	}
	imagetest.CloseDisk(t, d, path)
}
