package main

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/zone"
)

// faultFlag is a flag whose value is a fault, and which may be repeated (pflag.Value).
type faultFlag struct{ list []disk.Fault }

func (f *faultFlag) Set(s string) error {
	fault, err := disk.ParseFault(s)
	if err == nil {
		f.list = append(f.list, fault)
	}
	return err
}

func (f *faultFlag) String() string {
	var words []string
	for _, fault := range f.list {
		words = append(words, fault.String())
	}
	return strings.Join(words, " ")
}

func (f *faultFlag) Type() string { return "SPEC" }

// startFlags are the options for the initial state of a new image, if not every zone is
// empty.
type startFlags struct {
	readOnly, offline, full string
	faults                  faultFlag
}

func (s *startFlags) add(fs *pflag.FlagSet) {
	fs.StringVar(&s.readOnly, "read-only-zones", "", "`ZONES` that start read-only, such as 3,5-7")
	fs.StringVar(&s.offline, "offline-zones", "", "`ZONES` that start offline")
	fs.StringVar(&s.full, "full-zones", "", "`ZONES` that start full of zeroes")
	fs.Var(&s.faults, "fault", "fault that applies whenever it is served (see zvhost fault add); may be repeated")
}

// start builds the initial state of a disk of so many zones. An error is a usage error.
func (s *startFlags) start(zones int) (image.Start, error) {
	start := image.Start{Faults: s.faults.list}
	for _, f := range []struct {
		flag, text string
		list       *[]int
	}{
		{"read-only-zones", s.readOnly, &start.ReadOnly},
		{"offline-zones", s.offline, &start.Offline},
		{"full-zones", s.full, &start.Full},
	} {
		if f.text == "" {
			continue
		}
		list, err := zone.ParseSet(f.text, zones)
		if err != nil {
			return start, usagef("--%s: %w", f.flag, err)
		}
		*f.list = list
	}
	return start, nil
}

// describeStart describes the initial state, as an addition to describeGeometry.
func describeStart(s image.Start) string {
	var b strings.Builder
	for _, part := range []struct {
		n    int
		what string
	}{{len(s.ReadOnly), "read-only"}, {len(s.Offline), "offline"}, {len(s.Full), "full"}} {
		if part.n > 0 {
			fmt.Fprintf(&b, ", %d %s", part.n, part.what)
		}
	}
	if n := len(s.Faults); n > 0 {
		b.WriteString(", " + count(n, "fault"))
	}
	return b.String()
}
