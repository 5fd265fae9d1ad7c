package main

import (
	"fmt"
	"strings"

	"github.com/zvhost/zvhost/internal/bench"
)

// A mark is what a ratio is to be.
type mark struct {
	what  string
	limit float64
	most  bool // the limit is the most that is allowed, not the least
	of    metric
	in    func(c *comparison) bool // the comparisons that it is about
}

func (m *mark) text() string {
	if m.most {
		return fmt.Sprintf("at most %.1f", m.limit)
	}
	return fmt.Sprintf("at least %.1f", m.limit)
}

func (m *mark) met(v float64) bool {
	if m.most {
		return v <= m.limit
	}
	return v >= m.limit
}

// peerName and bareName are how the other sides are called.
const (
	peerName = "qemu-storage-daemon"
	bareName = "bare io_uring"
)

// marks are the targets of zvhost.
func marks() []mark {
	small := func(c *comparison) bool { return c.B == peerName && c.Task.BlockBytes == 4<<10 }
	deep := func(s storage, other string) func(*comparison) bool {
		return func(c *comparison) bool {
			return c.B == other && c.Task.Storage == s && c.Task.BlockBytes == 4<<10 && c.Task.Depth == 32 && c.Task.Queues == 1 && !c.Task.Poll
		}
	}
	return []mark{
		{"no storage, 4k, depth 32: IOPS", 1, false, iops, deep(nothing, peerName)},
		{"tmpfs, 4k, depth 32: IOPS", 1.5, false, iops, deep(tmpfs, peerName)},
		{"disk, 4k, depth 32: IOPS", 1, false, iops, deep(disk, peerName)},
		{"disk, 4k, depth 32: IOPS, against bare io_uring on the file", 0.9, false, iops, deep(disk, bareName)},
		{"files, 4k, depth 1, client sleeping: IOPS", 1.5, false, iops, func(c *comparison) bool {
			return small(c) && c.Task.Storage != nothing && c.Task.Depth == 1 && !c.Task.Poll
		}},
		{"4k, depth 32, client sleeping: p99.9 latency", 1, true, tail, func(c *comparison) bool {
			return small(c) && c.Task.Depth == 32 && !c.Task.Poll && c.Task.Queues == 1
		}},
		{"4k: processor time of the server for a request", 1.2, true, cpuNS, func(c *comparison) bool {
			return small(c) && !c.Task.Poll && c.Task.Queues == 1
		}},
		{"tmpfs, appends at depth 32 into 4 zones: IOPS, against random writes", 0.9, false, iops, func(c *comparison) bool {
			return c.Task.RW == bench.Append && c.Task.Storage == tmpfs && c.Task.Zones == 4
		}},
	}
}

// writeMarks is the table of the marks: a line for each comparison that one is
// about.
func writeMarks(b *strings.Builder, all []*comparison) {
	b.WriteString("| target | ratio | case | measured | |\n|---|---|---|---|---|\n")
	for _, m := range marks() {
		found := false
		for _, c := range all {
			if !m.in(c) {
				continue
			}
			found = true
			r := c.ratio(m.of)
			verdict := "met"
			if !m.met(r.median) {
				verdict = "**missed**"
			}
			name := c.Task.name()
			if c.Task.RW == bench.Append {
				name += "; " + c.B
			}
			fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", m.what, m.text(), name, r, verdict)
		}
		if !found {
			fmt.Fprintf(b, "| %s | %s | | not measured | |\n", m.what, m.text())
		}
	}
}

// String is the median, and between what the values lie.
func (s spread) String() string {
	return fmt.Sprintf("%s (%s to %s)", number(s.median), number(s.least), number(s.most))
}

// number writes a ratio in three digits or so.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
