package backend

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/zone"
)

// zoned is a host-managed zoned disk over an image file.
//
// A write is admitted under its zone's lock: it gets its address there, and
// joins the zone's list of writes in flight. The data then moves without any
// lock, in parallel with other writes of the zone. When it has landed the lock
// is taken once more, to move the write pointer that guests see.
type zoned struct {
	img    *image.Image
	zinfo  disk.Info
	rules  disk.Rules
	shift  int    // log2 of the zone size in sectors
	conv   uint64 // sectors of conventional zones, from the start of the disk
	zones  []seqZone
	com    *committer // nil on a read-only image
	faults disk.Faults
	edges  *disk.Edged // nil where the storage has no larger blocks than the image

	// broken is set when the live table could not be stored: no write is
	// promised after that.
	broken atomic.Bool

	claims struct {
		mu    sync.Mutex // guards of
		of    map[*disk.Note]*zonedRequest
		steps int // past other writes, to find the places of claims
	}
	givingUp sync.WaitGroup // claims that are given up in a goroutine

	res struct {
		mu sync.Mutex // guards all of res; taken with a zone's lock held
		zone.Resources
		implicit openOrder // the implicitly open zones
	}
}

// A zone is one sequential zone at work. Sectors are counted from its start.
type seqZone struct {
	// word is the table entry that guests and readers see. It is stored with mu
	// held and loaded without.
	word atomic.Uint64

	mu    sync.Mutex // guards what follows; never held across I/O
	state zone.State
	gate  writeGate
	watch bool // the committer waits for writes in flight
	// next is where the next admitted write goes, done the highest end of a
	// write that has landed.
	next, done uint64
	admitted   uint64 // how many writes have been admitted
	flying     writesInFlight
	wait       disk.List // the requests that wait for the zone, in the order of their arrival
}

// Info implements Disk.
func (d *zoned) Info() disk.Info { return d.zinfo }

// ReportZone implements Disk.
func (d *zoned) ReportZone(i int) zone.Descriptor { return d.img.Zone(i, d.Entry(i)) }

// Faults implements Disk.
func (d *zoned) Faults() *disk.Faults { return &d.faults }

// Entry, Conventional, Length and Capacity are what disk.Rules needs of the zones.
func (d *zoned) Entry(i int) zone.Entry { return zone.Entry(d.zones[i].word.Load()) }

func (d *zoned) Conventional(i int) bool { return d.img.Conventional(i) }

func (d *zoned) Length(i int) uint64 { return d.img.Length(i) }

func (d *zoned) Capacity(i int) uint64 { return d.img.Capacity(i) }

// errTable is what a write gets when its zone's entry could not be stored.
var errTable = fmt.Errorf("%w: the zone table cannot be written", disk.ErrIO)

// The committer is one goroutine per image that makes things durable: flushes,
// writes that must be stable, and resets. It is the only one that writes the
// committed zone table. Syncs are slow and the committer answers all that wait
// for one with one, so the hand-over to it costs nothing that can be measured.
//
// The order of its steps is the promise of docs/image-format.md:
//
//	flush: the zones' writes in flight end; data is synced; then the table says so
//	reset: the table says so; then the old data goes; then the zone takes writes
type committer struct {
	d *zoned

	// dirty has a bit for each zone whose live entry may differ from the
	// committed one.
	dirty []atomic.Uint64
	// landed is poked when a write ends in a zone that the committer watches.
	landed chan struct{}
	ended  chan struct{} // closed when the goroutine is gone

	mu      sync.Mutex // guards what follows
	work    sync.Cond
	flushes disk.List // wait for a commit
	resets  []uint32  // zones whose old data has to go
	residue []uint32  // zones with something that failed writes have left
	erases  disk.List // wait for that, and for a commit
	closing bool

	// lost is set once a sync has failed: the kernel then may have dropped data
	// that guests wrote, and tells so only once. No flush succeeds after that.
	lost error

	// The goroutine's own: the committed table as it is to be, the blocks of it
	// in which that may differ from what stands in the file, and which zones the
	// commit that is under way has looked at.
	words   []zone.Entry
	touched blockSet
	looked  []uint64
}

// A blockSet is a set of block numbers.
type blockSet struct {
	in   []bool
	list []int
}

func (s *blockSet) add(n int) {
	if !s.in[n] {
		s.in[n] = true
		s.list = append(s.list, n)
	}
}

func (s *blockSet) clear() {
	for _, n := range s.list {
		s.in[n] = false
	}
	s.list = s.list[:0]
}
