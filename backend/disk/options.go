package disk

// Kind is what a file is served as.
type Kind int

// The kinds of files.
const (
	KindPlain       Kind = iota // an ordinary disk
	KindImage                   // a zoned image: a host-managed disk
	KindZonedDevice             // a zoned block device of the host
)

// Options are how a disk is opened.
type Options struct {
	ReadOnly bool
	// Direct has data moved past the host's page cache. Zoned block devices are
	// always used so.
	Direct bool
	// Format is what the file has to be; empty for whatever it is.
	Format Format
	// Window is the part of a zoned block device to serve; nil for all of it.
	Window *Window
	// BlockSize is the logical block size in bytes that an ordinary disk is shown with, 512
	// or 4096; 0 for a device's own, and 512 for a file. Of images and zoned drives it is
	// the one that they have to have.
	BlockSize uint32
	// Warn is told, in a line, what may be wrong with a disk that is opened all the same;
	// nil: nobody is.
	Warn func(text string)

	// MinUnit is what I/O has to be whole blocks of at least, in bytes: for tests, whose file
	// system takes smaller ones.
	MinUnit uint32
	// LookOnly opens without a lock, to find out what the disk is: see Look.
	LookOnly bool
}

// Format says what a file is to be taken for.
type Format string

// The formats of files.
const (
	FormatAny Format = "" // what Probe finds
	// FormatRaw is an ordinary disk, whatever stands in it: a guest can write into
	// its own disk what makes a file an image.
	FormatRaw   Format = "raw"
	FormatZoned Format = "zoned" // a zoned image or drive, and nothing else
)

// Check says whether a file that was found to be kind may be opened as f, and as
// what kind.
func (f Format) Check(path string, kind Kind) (Kind, error) {
	switch {
	case f == FormatRaw && kind == KindZonedDevice:
		return 0, Unfitf("%s is a zoned drive, which is no ordinary disk: leave --format=raw out", path)
	case f == FormatRaw:
		return KindPlain, nil
	case f == FormatZoned && kind == KindPlain:
		return 0, Unfitf("%s is neither a zoned image nor a zoned drive: see whether it is the right file, or make an image with 'zvhost create'", path)
	}
	return kind, nil
}

// A Window is a range of a drive's zones, both ends included.
type Window struct{ First, Last int }
