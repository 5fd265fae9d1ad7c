package bench

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// Percentiles against those of the sorted values themselves: never below, and
// above by less than a bucket's width.
func TestPercentiles(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 3, 10, 999, 1000, 1001, 100_000} {
		var h, a, b histogram
		values := make([]uint64, n)
		var sum uint64
		for i := range values {
			v := uint64(math.Exp(rnd.Float64() * 20))
			values[i] = v
			sum += v
			h.add(v, 1)
			if i%3 == 0 {
				a.add(v, 1)
			} else {
				b.add(v, 1)
			}
		}
		slices.Sort(values)
		for _, p := range []float64{0.001, 1, 50, 90, 99, 99.9, 99.99, 100} {
			exact := values[max(int(math.Ceil(p/100*float64(n)-1e-9)), 1)-1]
			got := h.percentile(p)
			if got < exact || float64(got) > float64(exact)*(1+1.0/subBuckets) {
				t.Errorf("%d values: p%v is %d, want %d", n, p, got, exact)
			}
		}
		if h.min != values[0] || h.max != values[n-1] || h.count != uint64(n) || h.mean() != float64(sum)/float64(n) {
			t.Errorf("%d values: %d to %d, %d of them, mean %v", n, h.min, h.max, h.count, h.mean())
		}
		a.merge(&b)
		a.merge(&histogram{})
		if a != h {
			t.Errorf("%d values: in two parts it is not the same", n)
		}
	}
}

func TestBuckets(t *testing.T) {
	last := -1
	for v := uint64(0); v <= maxLatency; v += 1 + v/1000 {
		i := bucket(v)
		if i != last && i != last+1 {
			t.Fatalf("%d is in bucket %d, after %d", v, i, last)
		}
		if last = i; highest(i) < v || bucket(highest(i)) != i || i+1 < numBuckets && bucket(highest(i)+1) != i+1 {
			t.Fatalf("%d is in bucket %d, which ends with %d", v, i, highest(i))
		}
	}
	if last = bucket(maxLatency); last != numBuckets-1 {
		t.Errorf("the largest is in bucket %d of %d", last, numBuckets)
	}
	var h histogram
	if h.percentile(99) != 0 || h.mean() != 0 {
		t.Error("nothing was counted")
	}
	h.add(math.MaxUint64, 2)
	if h.percentile(50) != maxLatency || h.count != 2 {
		t.Errorf("more than the longest: %d", h.percentile(50))
	}
}
