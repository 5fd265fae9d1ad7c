package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// wantedZones is into how many zones and more appends have to be as much faster
// than with one lock as is wanted.
const wantedZones = 4

func main() {
	ours := flag.String("zvhost", "", "socket of the zvhost that is shipped")
	seeds := flag.String("onelock", "", "socket of the one with one lock")
	counts := flag.String("zones", "1,4,16", "into how many zones to write")
	rounds := flag.Int("rounds", 5, "how often each load is measured on each of them; the median counts")
	long := flag.Duration("for", 2*time.Second, "how long each time")
	want := flag.Float64("want", 0, fmt.Sprintf("fail when appends into %d zones and more are not that many times as fast as with one lock", wantedZones))
	flag.Parse()
	if err := run([2]string{*ours, *seeds}, strings.Split(*counts, ","), *rounds, *long, *want); err != nil {
		fmt.Fprintln(os.Stderr, "drives:", err)
		os.Exit(1)
	}
}

func run(sockets [2]string, counts []string, rounds int, long time.Duration, want float64) error {
	var targets [2]*target
	for i, socket := range sockets {
		t, err := dial(socket)
		if err != nil {
			return err
		}
		targets[i] = t
		defer func() { _ = t.disk.Close() }()
	}
	var loads []load
	for _, appends := range []bool{false, true} {
		for _, text := range counts {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 || n > mostInFlight {
				return fmt.Errorf("-zones: %q is not a number from 1 to %d", text, mostInFlight)
			}
			l := load{appends, n, n}
			if appends {
				l.inFlight = mostInFlight
			}
			loads = append(loads, l)
		}
	}
	rates := make([][2][]float64, len(loads))
	for round := range rounds {
		for i, l := range loads {
			for n := range targets {
				n = (n + round) % len(targets) // who is first takes turns
				rate, err := targets[n].measure(l, long)
				if err != nil {
					return fmt.Errorf("%v into %d zones, by way of %s: %w", l, l.zones, sockets[n], err)
				}
				rates[i][n] = append(rates[i][n], rate)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, rounds)
	}
	return table(loads, rates, want)
}

// table prints the medians, and fails where they are not what is wanted.
func table(loads []load, rates [][2][]float64, want float64) error {
	fmt.Printf("%-13s %6s %10s %12s %12s %7s   %s\n", "a second", "zones", "in flight", "zvhost", "one lock", "ratio", "lowest to highest ratio of a round")
	var err error
	for i, l := range loads {
		ours, seeds := rates[i][0], rates[i][1]
		each := make([]float64, len(ours))
		for n := range ours {
			each[n] = ours[n] / seeds[n]
		}
		ratio := median(ours) / median(seeds)
		fmt.Printf("%-13s %6d %10d %12.0f %12.0f %7.1f   %.1f to %.1f\n", l, l.zones, l.inFlight,
			median(ours), median(seeds), ratio, slices.Min(each), slices.Max(each))
		if l.appends && l.zones >= wantedZones && ratio < want {
			err = errors.Join(err, fmt.Errorf("appends into %d zones are %.1f times what one lock allows, and not %g times", l.zones, ratio, want))
		}
	}
	return err
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return (v[len(v)/2] + v[(len(v)-1)/2]) / 2
}
