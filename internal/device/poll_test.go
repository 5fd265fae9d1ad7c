package device

import (
	"testing"
	"time"
)

func TestPoller(t *testing.T) {
	const max = 100 * time.Microsecond
	p := poller{max: max}
	for i, step := range []struct {
		slept, looks time.Duration
	}{
		{0, 0},
		{10 * time.Microsecond, 20 * time.Microsecond},
		{90 * time.Microsecond, max},
		{max, max},
		{max + 1, 0}, // it was idle: no more looking
		{time.Hour, 0},
		{40 * time.Microsecond, 80 * time.Microsecond},
	} {
		if i > 0 {
			p.slept(step.slept)
		}
		if p.worthwhile(step.looks) || step.looks > 0 && !p.worthwhile(step.looks-1) {
			t.Errorf("step %d: after a sleep of %v it looks for %v, want %v", i, step.slept, p.time, step.looks)
		}
	}
	never := poller{}
	for _, idle := range []time.Duration{0, 1, max} {
		if never.slept(idle); never.worthwhile(0) {
			t.Errorf("polls after a sleep of %v, but is not to poll at all", idle)
		}
	}
}
