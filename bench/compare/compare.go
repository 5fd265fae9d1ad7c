package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// A match is a task for two sides.
type match struct {
	task task
	a, b runner
}

func (m *match) name() string {
	return (&comparison{Task: m.task, A: m.a.name(), B: m.b.name()}).name()
}

// A series is a number of matches, measured one after the other.
type series struct {
	matches []match
	pairs   int
	runtime time.Duration // of each measurement
	prepare func(task) error
	out     io.Writer // progress

	began       time.Time
	done, total time.Duration // of measuring time
}

// A setting is tried trialRounds times, in turn with the others, and each time for a
// trialShare-th of a measurement. One round was not enough, nor were three of a quarter:
// a moment of the machine's own work chose a setting of half the speed, and on the disk,
// at depth 1, one of 0.85 of it.
const trialRounds, trialShare = 5, 2

// cost is how much measuring time a match takes.
func (s *series) cost(m *match) time.Duration {
	trials := 0
	for _, r := range []runner{m.a, m.b} {
		if n := len(r.settings(m.task)); n > 1 {
			trials += n
		}
	}
	return time.Duration(2*s.pairs)*s.runtime + trialRounds*time.Duration(trials)*s.runtime/trialShare
}

// run measures all matches, and passes each to keep as soon as it is measured.
func (s *series) run(ctx context.Context, keep func(*comparison)) error {
	s.began = time.Now()
	for i := range s.matches {
		s.total += s.cost(&s.matches[i])
	}
	for i := range s.matches {
		m := &s.matches[i]
		c, err := s.compare(ctx, m)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name(), err)
		}
		keep(c)
		s.done += s.cost(m)
		s.report(i, c)
	}
	return nil
}

// report says what came out, and how long the rest will take.
func (s *series) report(i int, c *comparison) {
	a, b := c.medians(iops)
	left := time.Duration(float64(time.Since(s.began)) * (float64(s.total)/float64(s.done) - 1)).Round(time.Second)
	_, _ = fmt.Fprintf(s.out, "[%d/%d] %s: %s\n        %s IOPS of %s (%s), %s of %s (%s); p99.9 %s, processor %s; %v left\n",
		i+1, len(s.matches), c.Task.name(), c.ratio(iops), rate(a), c.A, c.SettingA.Name, rate(b), c.B, c.SettingB.Name,
		number(c.ratio(tail).median), processor(c), left)
}

// processor is the ratio of processor time, "-" where a side has no server.
func processor(c *comparison) string {
	if a, b := c.medians(cpuNS); a == 0 || b == 0 {
		return "-"
	}
	return number(c.ratio(cpuNS).median)
}

// compare measures one match: A B A B, each with the best of its settings.
func (s *series) compare(ctx context.Context, m *match) (*comparison, error) {
	if err := s.prepare(m.task); err != nil {
		return nil, err
	}
	c := &comparison{Task: m.task, A: m.a.name(), B: m.b.name()}
	var err error
	if c.SettingA, err = s.best(ctx, m.a, m.task); err != nil {
		return nil, err
	}
	if c.SettingB, err = s.best(ctx, m.b, m.task); err != nil {
		return nil, err
	}
	for range s.pairs {
		var p pair
		if p.A, err = m.a.measure(ctx, m.task, c.SettingA, s.runtime); err != nil {
			return nil, err
		}
		if p.B, err = m.b.measure(ctx, m.task, c.SettingB, s.runtime); err != nil {
			return nil, err
		}
		c.Pairs = append(c.Pairs, p)
	}
	return c, ctx.Err()
}

// best is the setting whose median trial answers most requests a second.
func (s *series) best(ctx context.Context, r runner, t task) (best setting, err error) {
	list := r.settings(t)
	if len(list) == 1 {
		return list[0], nil
	}
	tried := make([][]float64, len(list)) // requests a second
	for range trialRounds {
		for i, one := range list {
			got, err := r.measure(ctx, t, one, s.runtime/trialShare)
			if err != nil {
				return best, err
			}
			tried[i] = append(tried[i], got.IOPS)
		}
	}
	most := -1.0
	for i, one := range list {
		if m := spreadOf(tried[i]).median; m > most {
			best, most = one, m
		}
	}
	return best, nil
}

// settle waits until what was written before is on the disk, so that nobody's
// figures pay for it.
func settle() { unix.Sync() }

// rate writes a number of requests a second.
func rate(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.2fM", v/1e6)
	case v >= 1e5:
		return fmt.Sprintf("%.0fk", v/1e3)
	case v >= 1e3:
		return fmt.Sprintf("%.1fk", v/1e3)
	}
	return fmt.Sprintf("%.0f", v)
}
