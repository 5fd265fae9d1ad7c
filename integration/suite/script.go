package suite

import (
	"bufio"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/zvhost/zvhost/internal/zonemodel"
)

// A Script is a disk and what happens to it, in words:
//
//	disk sectors=1216 zone=128 capacity=96 conventional=2 max-open=2 max-active=3 max-append=32 block=512 queues=4 without=0
//	q0 append 256 4096 | q1 close 256 0
//	state 4 read-only
//
// Each line is a batch: the requests that are in flight at once, each with its
// queue, its type, its sector and its bytes; or a zone that is put into a state
// from outside. A line that begins with # is for people.
type Script struct {
	Setup Setup
	Steps []Step
}

// A Step is one line: a batch, or, without one, a zone and its state.
type Step struct {
	Ops  []*Op
	Zone int
	To   zonemodel.State
}

// fields are the words of the first line.
func (s *Setup) fields() []struct {
	name string
	u64  *uint64
	u32  *uint32
	n    *int
	on   *bool // 0 or 1
} {
	type field = struct {
		name string
		u64  *uint64
		u32  *uint32
		n    *int
		on   *bool
	}
	return []field{
		{name: "sectors", u64: &s.CapacitySectors}, {name: "zone", u64: &s.ZoneSectors}, {name: "capacity", u64: &s.ZoneCapacitySectors},
		{name: "conventional", n: &s.ConventionalZones}, {name: "max-open", u32: &s.MaxOpen}, {name: "max-active", u32: &s.MaxActive},
		{name: "max-append", u32: &s.MaxAppendSectors}, {name: "block", u32: &s.BlockBytes}, {name: "queues", n: &s.Queues},
		{name: "without", u64: &s.Without}, {name: "packed", on: &s.Packed},
	}
}

func (s Setup) String() string {
	text := "disk"
	for _, f := range s.fields() {
		switch {
		case f.u64 != nil:
			text += fmt.Sprintf(" %s=%d", f.name, *f.u64)
		case f.u32 != nil:
			text += fmt.Sprintf(" %s=%d", f.name, *f.u32)
		case f.on != nil:
			if *f.on {
				text += fmt.Sprintf(" %s=1", f.name)
			}
		default:
			text += fmt.Sprintf(" %s=%d", f.name, *f.n)
		}
	}
	return text
}

func (s Step) String() string {
	if s.Ops == nil {
		return fmt.Sprintf("state %d %v", s.Zone, s.To)
	}
	words := make([]string, len(s.Ops))
	for i, o := range s.Ops {
		words[i] = o.String()
	}
	return strings.Join(words, " | ")
}

func (c *Script) String() string {
	var b strings.Builder
	fmt.Fprintln(&b, c.Setup)
	for _, s := range c.Steps {
		fmt.Fprintln(&b, s)
	}
	return b.String()
}

// ParseScript reads a script. An error says which line is wrong.
func ParseScript(text string) (*Script, error) {
	c := new(Script)
	lines := bufio.NewScanner(strings.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := c.parseLine(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if c.Setup.ZoneSectors == 0 {
		return nil, errors.New(`there is no line "disk sectors=... zone=..." that says what disk it is for`)
	}
	return c, nil
}

func (c *Script) parseLine(line string) error {
	if words, ok := strings.CutPrefix(line, "disk "); ok {
		return c.Setup.parse(words)
	}
	if words, ok := strings.CutPrefix(line, "state "); ok {
		s := Step{To: zonemodel.NotWP}
		var name string
		if _, err := fmt.Sscanf(words, "%d %s", &s.Zone, &name); err != nil {
			return fmt.Errorf("%q: want \"state ZONE STATE\"", line)
		}
		for _, to := range []zonemodel.State{zonemodel.NotWP, zonemodel.Empty, zonemodel.ReadOnly, zonemodel.Offline} {
			if to.String() == name {
				s.To = to
				c.Steps = append(c.Steps, s)
				return nil
			}
		}
		return fmt.Errorf("%q: no zone can be put into that state from outside", line)
	}
	var s Step
	for words := range strings.SplitSeq(line, "|") {
		o, err := parseOp(words)
		if err != nil {
			return err
		}
		s.Ops = append(s.Ops, o)
	}
	c.Steps = append(c.Steps, s)
	return nil
}

func (s *Setup) parse(words string) error {
	known := s.fields()
next:
	for w := range strings.FieldsSeq(words) {
		name, value, _ := strings.Cut(w, "=")
		for _, f := range known {
			if f.name != name {
				continue
			}
			bits := 64
			switch {
			case f.on != nil:
				bits = 1
			case f.u64 == nil:
				bits = 31
			}
			v, err := strconv.ParseUint(value, 10, bits)
			switch {
			case err != nil:
				return fmt.Errorf("%q is no number that can stand there", w)
			case f.u64 != nil:
				*f.u64 = v
			case f.u32 != nil:
				*f.u32 = uint32(v)
			case f.on != nil:
				*f.on = v != 0
			default:
				*f.n = int(v)
			}
			continue next
		}
		return fmt.Errorf("%q: a disk has no such property", w)
	}
	return nil
}

// Play plays a script on a disk of the target. The error is a *Divergence when
// the disk did what no model does.
func (c *Script) Play(target Target) (err error) {
	served, err := target(c.Setup)
	if err != nil {
		return err
	}
	s, err := Open(served, c.Setup)
	if err != nil {
		return errors.Join(err, served.Close())
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	for n, step := range c.Steps {
		if err := s.Step(step); err != nil {
			return fmt.Errorf("step %d: %w", n+1, err)
		}
	}
	return errors.Join(s.Verify(), s.Compare())
}

// Step does one line of a script.
func (s *Session) Step(step Step) error {
	if step.Ops == nil {
		return s.Put(step.Zone, step.To)
	}
	ops := make([]*Op, len(step.Ops)) // with outcomes of their own
	for i, o := range step.Ops {
		ops[i] = &Op{Queue: o.Queue, Type: o.Type, Sector: o.Sector, Bytes: o.Bytes, Flags: o.Flags}
	}
	return s.Batch(ops...)
}

// Put puts a zone into a state from outside.
func (s *Session) Put(zone int, to zonemodel.State) error {
	switch {
	case s.served.SetState == nil:
		return errors.New(noStates)
	case zone < 0 || zone >= len(s.Model.Zones):
		return fmt.Errorf("there is no zone %d", zone)
	}
	if err := s.Verify(); err != nil {
		return err
	}
	if err := s.served.SetState(zone, to); err != nil {
		return err
	}
	m := s.Model.Clone()
	m.SetState(zone, to)
	s.Model = m
	return s.Compare()
}
