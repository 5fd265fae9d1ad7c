package backend

import (
	"fmt"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
)

// A cutLoad is a disk under the load of several workers. One goroutine plays all
// of them and the disk under the image, step by step; the committer's goroutine
// runs until it waits, at a call of the store or for work. So a seed says what
// happens and when.
type cutLoad struct {
	*cutRun
	h     *cutHost
	d     *zoned
	m     *cutModel
	lanes []*cutLane
	next  map[int]uint64       // where the next write of a zone goes, as far as is known
	sent  map[uint32]*cutFlush // by tag
	tag   uint32
}

// A cutFlush is a request on its way, and what the model knows of it by zone; a
// flush is of no zone.
type cutFlush struct {
	sent  uint64
	parts []*cutReq
}

func (r *cutRun) newLoad(h *cutHost, d *zoned, m *cutModel) (*cutLoad, error) {
	u := &cutLoad{cutRun: r, h: h, d: d, m: m, next: make(map[int]uint64), sent: make(map[uint32]*cutFlush)}
	for i, z := range m.zones {
		u.next[i] = z.baseEnd
	}
	for range 1 + r.rnd.IntN(4) {
		lane, err := newCutLane(h)
		if err != nil {
			return nil, err
		}
		lane.hold, lane.queued, lane.landed = true, u.queued, u.landed
		u.lanes = append(u.lanes, lane)
	}
	return u, nil
}

// queued and landed tell the model of the data of writes.
func (u *cutLoad) queued(op *engine.Op) {
	off := op.Off
	if b := op.Owner.(*disk.Request).Bounce; b != nil {
		if b.Moved != 0 {
			return // it goes on
		}
		off = b.Off
	}
	if r := u.sent[op.Owner.(*disk.Request).Tag].parts[0]; !u.h.dead && !u.d.img.Conventional(r.inZone) {
		u.m.issued(r, uint64(off-u.h.l.Offset(uint64(r.inZone)*u.d.img.ZoneSectors))>>disk.SectorShift)
	}
}

func (u *cutLoad) landed(op *engine.Op) { u.m.moved(u.sent[op.Owner.(*disk.Request).Tag].parts[0]) }

// step does one thing: some write goes on, the committer goes on, or a request
// is sent.
func (u *cutLoad) step() error {
	lane := u.lanes[u.rnd.IntN(len(u.lanes))]
	switch n := u.rnd.IntN(10); {
	case n < 4 && len(lane.held) > 0:
		u.goOn(lane)
	case n < 6 && u.h.waiting:
		u.resume()
	case lane.InFlight() < 4:
		u.send(lane)
	}
	return u.settle()
}

// goOn carries out a part or all of a write that is held.
func (u *cutLoad) goOn(lane *cutLane) {
	i := u.rnd.IntN(len(lane.held))
	to := lane.held[i].op.Len
	if u.rnd.IntN(4) == 0 {
		to = int64(u.rnd.IntN(int(to>>disk.SectorShift))) << disk.SectorShift
	}
	lane.run(i, to)
}

func (u *cutLoad) resume() {
	u.h.waiting = false
	u.h.resume <- struct{}{}
}

// settle lets everybody run until they wait, and takes the answers.
func (u *cutLoad) settle() error {
	synctest.Wait()
	for _, lane := range u.lanes {
		for r := lane.Done(); r != nil; r = lane.Done() {
			synctest.Wait()
			if !u.h.dead {
				u.answered(r)
			}
		}
	}
	synctest.Wait()
	if u.h.dead {
		return nil
	}
	return u.h.observe()
}

func (u *cutLoad) answered(r *disk.Request) {
	f := u.sent[r.Tag]
	delete(u.sent, r.Tag)
	u.note("%v %v", r.Op, r.Err == nil)
	if r.Op == disk.OpFlush && r.Err == nil {
		u.m.flushed(f.sent)
	}
	for _, p := range f.parts {
		u.m.answer(p.inZone, p)
		if z := u.d.ReportZone(p.inZone); r.Err != nil {
			u.next[p.inZone] = z.WP - z.Start
		}
	}
}

// send sends a request.
func (u *cutLoad) send(lane *cutLane) {
	i := u.hot[u.rnd.IntN(len(u.hot))]
	z, g := u.m.zones[i], &u.d.img.Geometry
	r := &disk.Request{Sector: uint64(i) * g.ZoneSectors, Stable: u.rnd.IntN(10) == 0}
	parts := []int{i}
	n := u.rnd.IntN(100)
	switch {
	case n < 10:
		r.Op, r.Stable, parts = disk.OpFlush, false, nil
	case g.Conventional(i) || n < 80 && u.next[i] < g.Capacity(i):
		r.Op = disk.OpWrite
	case n < 85:
		r.Op = disk.OpFinish
	case n < 88:
		r.Op = disk.OpOpen
	case n < 91:
		r.Op = disk.OpClose
	case z.sent != z.answered:
		return // one reset of a zone after the other
	case n < 99:
		r.Op = disk.OpReset
	default:
		r.Op, r.Sector, parts = disk.OpResetAll, 0, nil
		for _, i := range u.hot {
			if z := u.m.zones[i]; z.sent != z.answered {
				return
			} else if !g.Conventional(i) {
				parts = append(parts, i)
			}
		}
	}
	f := &cutFlush{}
	var id uint32
	if r.Op == disk.OpWrite {
		u.ids++
		id = u.ids
		u.place(i, r, id)
	}
	for _, i := range parts {
		p := &cutReq{Request: r, id: id}
		if g.Conventional(i) {
			p.at = r.Sector & (g.ZoneSectors - 1)
			p.behind = p.at + r.Bytes>>disk.SectorShift
		}
		u.m.send(i, p)
		f.parts = append(f.parts, p)
		switch r.Op {
		case disk.OpFinish:
			u.next[i] = g.Capacity(i)
		case disk.OpReset, disk.OpResetAll:
			u.next[i] = 0
		}
	}
	f.sent = u.m.tick()
	u.tag++
	r.Tag = u.tag
	u.sent[r.Tag] = f
	u.note("%v %d %d %d %v", r.Op, r.Sector, r.Bytes, id, r.Stable)
	lane.Submit(u.d, r)
	lane.Start()
}

// place makes r a write or append of request id in zone i.
func (u *cutLoad) place(i int, r *disk.Request, id uint32) {
	g := &u.d.img.Geometry
	block := uint64(g.BlockSize) >> disk.SectorShift
	at := u.next[i]
	if g.Conventional(i) {
		at = uint64(u.rnd.IntN(int(g.Length(i)/block))) * block
	}
	sectors := min(uint64(1+u.rnd.IntN(6))*block, g.Capacity(i)-at)
	if u.rnd.IntN(8) == 0 {
		sectors = g.Capacity(i) - at
	}
	if u.rnd.IntN(2) == 0 && !g.Conventional(i) && sectors <= uint64(g.MaxAppendSectors) {
		r.Op = disk.OpAppend
	} else {
		r.Sector += at
	}
	u.next[i] = at + sectors
	data := make([]byte, sectors<<disk.SectorShift)
	stampAll(data, id)
	r.Bytes = uint64(len(data))
	r.Iov = []unix.Iovec{{Base: &data[0], Len: r.Bytes}}
}

func (u *cutLoad) inFlight() (n int) {
	for _, lane := range u.lanes {
		n += lane.InFlight()
	}
	return n
}

// drain lets all requests end. A disk that is closed has none in flight.
func (u *cutLoad) drain() error {
	for range 100_000 {
		if u.inFlight() == 0 && !u.h.waiting {
			return nil
		}
		for _, lane := range u.lanes {
			for len(lane.held) > 0 {
				lane.run(0, lane.held[0].op.Len)
			}
		}
		if u.h.waiting {
			u.resume()
		}
		if err := u.settle(); err != nil {
			return err
		}
	}
	return fmt.Errorf("%d requests do not end", u.inFlight())
}

// kill ends the daemon as kill -9 does. What of the writes in flight has come to
// the page cache nobody knows.
func (u *cutLoad) kill() error {
	for _, lane := range u.lanes {
		for i := range lane.held {
			if w := &lane.held[i]; u.rnd.IntN(2) == 0 {
				if to := int64(u.rnd.IntN(int(w.op.Len>>disk.SectorShift)+1)) << disk.SectorShift; to > w.done {
					lane.carryOut(*w, to)
				}
			}
		}
	}
	if err := u.h.observe(); err != nil {
		return err
	}
	return u.abandon()
}

// abandon lets go of a disk that has nothing to say any more.
func (u *cutLoad) abandon() error {
	u.h.dead = true
	u.h.phase = "kill"
	// Nothing that is yet to end may reach the table.
	if err := u.d.img.Live.Close(); err != nil {
		return err
	}
	if err := u.drain(); err != nil {
		return err
	}
	u.d.com.stop()
	return u.leave(u.d.img.Release())
}

// close closes the disk, and tells inCall of each step.
func (u *cutLoad) close(inCall func() error) error {
	if err := u.drain(); err != nil {
		return err
	}
	u.h.phase, u.h.inCall = "close", inCall
	if err := u.leave(u.d.Close()); err != nil {
		return err
	}
	return u.h.observe()
}

func (u *cutLoad) leave(err error) error {
	for _, lane := range u.lanes {
		if cerr := lane.Close(); err == nil {
			err = cerr
		}
	}
	return err
}
