package main

import (
	"slices"

	"github.com/zvhost/zvhost/internal/bench"
)

// A comparison is one task, measured of two sides in turn.
type comparison struct {
	Task     task    `json:"task"`
	A        string  `json:"a"` // names
	B        string  `json:"b"`
	SettingA setting `json:"setting_a"`
	SettingB setting `json:"setting_b"`
	Pairs    []pair  `json:"pairs"`
}

// A pair is one measurement of either side, one right after the other.
type pair struct {
	A bench.Result `json:"a"`
	B bench.Result `json:"b"`
}

func (c *comparison) name() string { return c.Task.name() + ", " + c.A + " : " + c.B }

// A metric is what is compared.
type metric func(r *bench.Result) float64

func iops(r *bench.Result) float64  { return r.IOPS }
func tail(r *bench.Result) float64  { return float64(r.Latency.P999) }
func cpuNS(r *bench.Result) float64 { return r.ServerNS() }

// A spread is the median of some values, and between what they lie.
type spread struct{ median, least, most float64 }

// spreadOf is that of the values, of which there is at least one.
func spreadOf(values []float64) spread {
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	return spread{median: (s[(n-1)/2] + s[n/2]) / 2, least: s[0], most: s[n-1]}
}

// ratio is that of A to B, pair by pair.
func (c *comparison) ratio(m metric) spread {
	values := make([]float64, len(c.Pairs))
	for i := range c.Pairs {
		if b := m(&c.Pairs[i].B); b != 0 {
			values[i] = m(&c.Pairs[i].A) / b
		}
	}
	return spreadOf(values)
}

// medians are those of the two sides.
func (c *comparison) medians(m metric) (a, b float64) {
	var as, bs []float64
	for i := range c.Pairs {
		as, bs = append(as, m(&c.Pairs[i].A)), append(bs, m(&c.Pairs[i].B))
	}
	return spreadOf(as).median, spreadOf(bs).median
}
