package handover

import (
	"fmt"
	"strconv"

	"github.com/zvhost/zvhost/internal/foreign"
)

// A Store is where a session puts what has to outlive the process, so that another process
// can go on with it: the fd store of a service manager. No name is used for two
// descriptors at once.
type Store struct {
	// Put stores a duplicate of fd under name. An error is why it is not stored.
	Put func(name string, fd int) error
	// Drop forgets what is stored under name, if anything is.
	Drop func(name string)
	// Prefix is what all names of the session begin with.
	Prefix string
}

// The names, behind the prefix, of what has no number.
const (
	ConnName    = "conn"
	JournalName = "state"
)

// A Saver saves one session for the next process. docs/restart.md says why the order of
// its steps is safe.
type Saver struct {
	Store
	Journal *Journal
	last    uint64                 // the last number that was given
	files   map[uint64]*foreign.FD // what is stored, by number

	// The message that the session acts on.
	Pieces    Pieces
	Reply     []byte // the answer that the next commit names: header and payload; empty for none
	Committed bool   // the message counts as acted on: a commit has its effects
}

// NewSaver makes a Saver with nothing stored yet.
func NewSaver(store Store, j *Journal) *Saver {
	return &Saver{Store: store, Journal: j, files: map[uint64]*foreign.FD{}}
}

// Save stores a descriptor, under a number of its own; or under that of another one of the
// same open file, for systemd's store has no file twice, and forgets what it is given
// again under another name. Memory regions are often parts of one file. An error is the
// store's.
func (k *Saver) Save(f *foreign.FD) error {
	if k == nil || f == nil {
		return nil
	}
	for n, have := range k.files {
		if f.IsSame(have) {
			f.SavedAs = n
			return nil
		}
	}
	f.SavedAs = k.number()
	k.files[f.SavedAs] = f
	if err := k.Put(k.name(f.SavedAs), f.Int()); err != nil {
		return fmt.Errorf("store a descriptor for the next process: %w", err)
	}
	return nil
}

// number is one that no descriptor has, and never 0, which says that there is none. Behind
// the last number they begin again at 1.
func (k *Saver) number() uint64 {
	for {
		if k.last++; k.last != 0 && k.files[k.last] == nil {
			return k.last
		}
	}
}

// Reserve keeps the numbers that stored has from being given: the store may still have
// their descriptors when new ones come.
func (k *Saver) Reserve(stored Stored) {
	for name := range stored {
		if n, err := strconv.ParseUint(name, 10, 64); err == nil {
			k.last = max(k.last, n)
		}
	}
}

func (k *Saver) name(n uint64) string { return k.Prefix + strconv.FormatUint(n, 10) }

// DropUnused drops all descriptors but those in use, of which some may be nil.
func (k *Saver) DropUnused(inUse ...*foreign.FD) {
	used := map[uint64]*foreign.FD{}
	for _, f := range inUse {
		if f != nil {
			used[f.SavedAs] = f
		}
	}
	for n := range k.files {
		if f := used[n]; f != nil {
			k.files[n] = f // the one that Save was called with may be closed by now
			continue
		}
		delete(k.files, n)
		k.Drop(k.name(n))
	}
}

// DropAll drops everything: the session is over. The connection goes first, for without it
// a next process drops the rest.
func (k *Saver) DropAll() {
	k.Drop(k.Prefix + ConnName)
	k.Drop(k.Prefix + JournalName)
	for n := range k.files {
		k.Drop(k.name(n))
	}
	clear(k.files)
}
