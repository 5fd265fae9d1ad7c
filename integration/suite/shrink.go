package suite

import (
	"errors"
	"slices"
)

// shrinkTries bounds how many scripts Shrink tries.
const shrinkTries = 500

// Shrink returns as short a script as it can find that still fails: with whole
// steps left out, then requests, then with less data and fewer queues.
func (c *Script) Shrink(fails func(*Script) bool) *Script {
	if !fails(c) {
		return c // who came first mattered, and it does not happen again
	}
	tries := shrinkTries
	try := func(next *Script) bool {
		if tries == 0 {
			return false
		}
		tries--
		if fails(next) {
			c = next
			return true
		}
		return false
	}
	for again := true; again; {
		again = false
		for n := max(len(c.Steps)/2, 1); n > 0; n /= 2 {
			// From the end: what was found there needs least of what comes later.
			for at := len(c.Steps) - n; at >= 0; at -= n {
				again = try(&Script{c.Setup, slices.Delete(slices.Clone(c.Steps), at, at+n)}) || again
			}
		}
		for i := len(c.Steps) - 1; i >= 0; i-- {
			for j := len(c.Steps[i].Ops) - 1; j >= 0 && len(c.Steps[i].Ops) > 1; j-- {
				next := c.with(i, j, func(*Op) {})
				next.Steps[i].Ops = slices.Delete(next.Steps[i].Ops, j, j+1)
				again = try(next) || again
			}
		}
	}
	for i := range c.Steps {
		for j, o := range c.Steps[i].Ops {
			if block := uint64(c.Setup.BlockBytes); o.Bytes > block && !hasSegment(o.Type) {
				try(c.with(i, j, func(o *Op) { o.Bytes = block }))
			}
			if o.Queue > 0 {
				try(c.with(i, j, func(o *Op) { o.Queue = 0 }))
			}
		}
	}
	return c
}

// with is the script with a change to one request.
func (c *Script) with(step, op int, change func(*Op)) *Script {
	next := &Script{c.Setup, slices.Clone(c.Steps)}
	ops := slices.Clone(c.Steps[step].Ops)
	o := *ops[op]
	change(&o)
	ops[op] = &o
	next.Steps[step].Ops = ops
	return next
}

// Diverges plays the script up to so many times, as what happens may depend on
// who comes first, and says whether the disk once did what no model does.
func (c *Script) Diverges(target Target, times int) bool {
	for range times {
		var d *Divergence
		if errors.As(c.Play(target), &d) {
			return true
		}
	}
	return false
}
