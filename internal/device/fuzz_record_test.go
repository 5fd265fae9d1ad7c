package device

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/internal/testleak"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/vhostuser/inflight"
	"github.com/zvhost/zvhost/virtio/driver"
)

// The rings of FuzzRecord, and how many requests wait in the first of them.
const (
	recordSize  = 16
	recordDepth = 5
)

// A waiting is a request that is in a ring when the next process starts.
type waiting struct {
	r       *frontend.Request
	taken   bool // the record says that it was in flight
	mark    [2]uint64
	answers int
}

// FuzzRecord has the next process, with a device, a session and workers of its own, start
// with a ring in which requests wait, and a record that says of some of them whatever a
// front-end has stored. Whatever it is: no panic, no hang; every used entry has a status;
// no read, flush, report or request for the ID is answered by a note; what was in flight is
// answered, and zones that nothing names hold what they held, unless the record was forged
// in other places than its notes; the image is whole, and the next front-end is served.
//
// An input is a byte of modes, recordDepth requests of 8 bytes (type, zone, offset in it,
// sectors; what the mark knows, zone and offset of it, length), and patches of the record:
// word (2), byte of it, value.
func FuzzRecord(f *testing.F) {
	for _, s := range recordSeeds() {
		f.Add(s)
	}
	path, im := recordImage(f)
	rounds := 0
	f.Fuzz(func(t *testing.T, in []byte) {
		if rounds++; rounds%64 == 1 { // it takes long
			before := testleak.Take()
			t.Cleanup(func() {
				if leaks := before.WaitFiles(); len(leaks) > 0 {
					t.Error(leaks)
				}
			})
		}
		if err := os.WriteFile(path, im, 0o600); err != nil {
			t.Fatal(err)
		}
		forgeRecord(t, path, append(in, make([]byte, max(0, 1+8*recordDepth-len(in)))...))
	})
}

// recordImage is an image in memory, where syncs cost nothing, and what it is to hold:
// zones 0 to 5 were written.
func recordImage(f *testing.F) (path string, im []byte) {
	fresh := filepath.Join(f.TempDir(), "fresh.zvh")
	g := fuzzZones
	g.MaxOpen, g.MaxActive = 0, 0
	if err := image.Create(fresh, g); err != nil {
		f.Fatal(err)
	}
	r := newRig(f, fresh, 1)
	d := r.connect(frontend.Options{})
	for i := range 6 {
		d.want("write", driver.StatusOK, d.Queue(0).Write(heldBy(i), uint64(i)*g.ZoneSectors))
	}
	d.leave()
	r.close()
	im, err := os.ReadFile(fresh)
	if err != nil {
		f.Fatal(err)
	}
	memfd, err := unix.MemfdCreate("disk.zvh", unix.MFD_CLOEXEC)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = unix.Close(memfd) })
	return fmt.Sprintf("/proc/self/fd/%d", memfd), im
}

// heldBy is what zone i holds: 4 sectors.
func heldBy(i int) []byte { return bytes.Repeat([]byte{byte('A' + i)}, 4*512) }

func forgeRecord(t *testing.T, path string, in []byte) {
	mode, requests, patches := in[0], in[1:1+8*recordDepth], in[1+8*recordDepth:]
	first := newRig(t, path, 1)
	g := first.connect(frontend.Options{Inflight: true, Packed: mode&1 != 0, QueueSize: recordSize, Depth: recordDepth, BufferBytes: 16 * 512})
	q := g.Queue(0)
	base, err := q.Stop()
	if err != nil {
		t.Fatal(err)
	}
	named := map[uint64]bool{}
	var all []*waiting
	for b := requests; len(b) > 0; b = b[8:] {
		all = append(all, wait(t, g, b, named))
	}
	if !q.Ring().Publish() && mode&2 != 0 {
		g.kick(0)
	}
	rec := openRecord(t, g.recordFD(), 1, recordSize)
	ring := inflight.Start{Size: recordSize, Life: 1 + uint64(mode>>4), Base: base}
	inFlight := takeWaiting(t, g, rec.Ring(0), ring, all[:int(mode>>2&3)+1])
	rec.Ring(0).SetUser(disk.Run(first.disk))
	for i, head := range inFlight {
		all[i].taken, *rec.Ring(0).Mark(head) = true, all[i].mark
	}
	honest := len(patches) < 4
	if !honest {
		scribbleRecord(g, patches)
	}
	if err := rec.Close(); err != nil {
		t.Fatal(err)
	}

	// The front-end, and a daemon that has served it, are gone; the memory is there.
	if err := errors.Join(g.Client.Close(), <-g.ended); err != nil {
		t.Fatal(err)
	}
	first.close()
	next := newRig(t, path, 1)
	client, ended := next.dial()
	err = g.Disk.Reconnect(client)
	if err != nil && honest {
		t.Fatalf("%v\n%s", err, next.book)
	}
	g.r, g.ended = next, ended
	if err == nil {
		if _, err = q.Stop(); err != nil {
			t.Fatalf("%v\n%s", err, next.book)
		}
		err = takeAnswers(t, q, all, honest)
	}
	if honest && err != nil {
		t.Errorf("%v\n%s", err, next.book)
	}
	if err := errors.Join(g.Disk.Abandon(), <-g.ended); err != nil && honest {
		t.Errorf("%v\n%s", err, next.book)
	}
	last := next.connect(frontend.Options{})
	for i := range 6 {
		got := make([]byte, 4*512)
		last.want("read", driver.StatusOK, last.Queue(0).Read(got, uint64(i)*fuzzZones.ZoneSectors))
		if honest && !named[uint64(i)] && !bytes.Equal(got, heldBy(i)) {
			t.Errorf("zone %d, which nothing has named, holds something else", i)
		}
	}
	last.leave()
	next.close()
}

// wait puts a request into the ring, of 8 bytes of the input, and says what its note is to
// be. It notes which zones either of them names.
func wait(t *testing.T, g *guest, b []byte, named map[uint64]bool) *waiting {
	size := fuzzZones.ZoneSectors
	r := g.Queue(0).Get()
	types := []uint32{driver.TypeIn, driver.TypeOut, driver.TypeFlush, driver.TypeZoneAppend, driver.TypeZoneOpen, driver.TypeZoneClose, driver.TypeZoneFinish,
		driver.TypeZoneReset, driver.TypeZoneResetAll, driver.TypeSecureErase, driver.TypeZoneReport, driver.TypeGetID}
	r.Type, r.Sector = types[int(b[0])%len(types)], uint64(b[1]&7)*size+uint64(b[2]&0xf)
	n := uint64(b[3] & 0xf)
	switch r.Type {
	case driver.TypeIn, driver.TypeOut, driver.TypeZoneAppend:
		r.SetLen(int(n) * 512)
		for i := range r.Data {
			r.Data[i] = 'n'
		}
	case driver.TypeZoneReport:
		r.SetLen(int(n) * 64)
	case driver.TypeGetID:
		r.SetLen(driver.IDBytes)
	case driver.TypeSecureErase:
		r.SetLen(driver.SegmentBytes)
		driver.PutSegment(r.Data, r.Sector, uint32(size), 0)
	case driver.TypeZoneResetAll:
		for i := range uint64(8) {
			named[i] = true
		}
	}
	named[r.Sector/size], named[(r.Sector+n)/size], named[r.Sector/size+1] = true, true, true
	if err := g.Queue(0).Submit(r); err != nil {
		t.Fatal(err)
	}
	w := &waiting{r: r, mark: [2]uint64{uint64(b[4] & 7), uint64(b[7] & 0x1f)}}
	at := uint64(b[5]&7)*size + uint64(b[6]&0xf)
	if b[4]&8 != 0 { // as zone management, or what goes over zones, has it
		at = uint64(b[5]) | uint64(b[6])<<40
	}
	w.mark[0] |= at << 8
	named[at/size] = true
	return w
}

// takeWaiting has the record say that ws were taken, which wait first in the ring, and
// returns the numbers that they have there.
func takeWaiting(t *testing.T, g *guest, rec *inflight.Ring, ring inflight.Start, ws []*waiting) (heads []uint16) {
	q := g.Queue(0)
	if !g.Disk.Packed() {
		if _, _, err := rec.Begin(ring, q.Ring().DeviceIdx()); err != nil {
			t.Fatal(err)
		}
		avail, err := g.Disk.Memory.Bytes(q.Ring().Config().Avail+4, 2*recordSize)
		if err != nil {
			t.Fatal(err)
		}
		for i := range ws {
			head := binary.LittleEndian.Uint16(avail[2*((int(ring.Base)+i)%recordSize):])
			rec.Take(head)
			heads = append(heads, head)
		}
		return heads
	}
	if _, _, err := rec.BeginPacked(ring, func(uint16) bool { return false }); err != nil {
		t.Fatal(err)
	}
	at := uint16(ring.Base) &^ (1 << 15) % recordSize
	for range ws {
		var descs [][2]uint64
		for {
			addr, n, id, flags := q.Ring().PackedDesc(at)
			at = (at + 1) % recordSize
			descs = append(descs, [2]uint64{addr, uint64(n) | uint64(flags)<<32})
			if flags&1 == 0 { // VIRTQ_DESC_F_NEXT
				rec.Hold(id, descs)
				rec.Take(id)
				heads = append(heads, id)
				break
			}
		}
	}
	return heads
}

// takeAnswers looks at what has come back from a ring that was stopped.
func takeAnswers(t *testing.T, q *frontend.Queue, all []*waiting, honest bool) error {
	done := make([]*frontend.Request, len(all))
	for {
		n, err := q.Poll(done)
		if n == 0 || err != nil {
			break // nobody but this front-end's ring was given something that is not in it
		}
		for _, r := range done[:n] {
			w := all[slices.IndexFunc(all, func(w *waiting) bool { return w.r == r })]
			w.answers++
			if r.Status == driver.StatusNone {
				t.Errorf("type %d came back without a status", r.Type)
			}
			if honest && w.taken && r.Status == driver.StatusOK && w.answeredByMark() {
				t.Errorf("type %d ended well with the mark %#x", r.Type, w.mark)
			}
		}
	}
	for i, w := range all {
		if honest && w.taken && w.answers != 1 {
			return fmt.Errorf("request %d, of type %d, which was in flight, has %d answers", i, w.r.Type, w.answers)
		}
	}
	return nil
}

// answeredByMark says that w is of a type that no daemon notes, and is marked: but for
// what makes no sense and is forgotten before the ring starts.
func (w *waiting) answeredByMark() bool {
	const emptying, changingOneOf = 5, 7
	switch w.r.Type {
	case driver.TypeIn, driver.TypeFlush:
		what := w.mark[0] & 0xff
		return what != 0 && (what < emptying || what > changingOneOf)
	}
	return false
}

func scribbleRecord(g *guest, patches []byte) {
	mem := g.recordMemory()
	for ; len(patches) >= 4; patches = patches[4:] {
		word := int(binary.LittleEndian.Uint16(patches)) % (len(mem) / 8)
		mem[8*word+int(patches[2]&7)] = patches[3]
	}
}

func (g *guest) recordFD() int { return g.Disk.Inflight().FD() }

// openRecord maps a record once more. t may be a test of package rapid.
func openRecord(t interface {
	Helper()
	Fatal(args ...any)
}, fd, queues int, size uint16) *inflight.Record {
	t.Helper()
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := inflight.Open(foreign.NewFD(n), 0, queues, size)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// recordSeeds are notes of every kind for requests of every type, and records with a word
// forged.
func recordSeeds() (seeds [][]byte) {
	for mode := range byte(16) {
		for what := range byte(9) {
			s := []byte{mode}
			for i := range byte(recordDepth) {
				zone := 1 + (i+what)%6
				s = append(s, 1+(what*recordDepth+i+mode)%11, zone, []byte{4, 0}[what%2], 4, what|mode&8, zone, []byte{4, 0}[what%2], 4)
			}
			seeds = append(seeds, s)
		}
	}
	for word := range byte(24) {
		for _, v := range []byte{0, 1, 3, 0x10, 0xff} {
			seeds = append(seeds, append(slices.Clone(seeds[int(word)%len(seeds)]), word, 0, word%8, v))
		}
	}
	return seeds
}
