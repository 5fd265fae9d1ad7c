package bench

import "math/bits"

// A histogram counts latencies in nanoseconds, log-linear: each power of two is divided
// into 64 buckets, so the resolution is 1/64 of a value, and exact below 128 ns. Longer
// latencies count as maxLatency.
type histogram struct {
	buckets [numBuckets]uint64
	count   uint64
	sum     uint64 // ns
	min     uint64
	max     uint64
}

const (
	subBits    = 6 // log2 of the buckets in a power of two
	subBuckets = 1 << subBits
	maxLatency = 1<<40 - 1 // ns, 18 minutes
	numBuckets = (40 - subBits + 1) * subBuckets
)

// bucket is the bucket of v, 0 <= v <= maxLatency.
func bucket(v uint64) int {
	if v < subBuckets {
		return int(v)
	}
	shift := bits.Len64(v) - 1 - subBits
	return shift*subBuckets + int(v>>shift)
}

// highest is the largest value of bucket i.
func highest(i int) uint64 {
	if i < 2*subBuckets {
		return uint64(i)
	}
	shift := i/subBuckets - 1
	return uint64(i%subBuckets+subBuckets+1)<<shift - 1
}

// add counts n values of v nanoseconds.
func (h *histogram) add(v, n uint64) {
	v = min(v, maxLatency)
	if h.count == 0 || v < h.min {
		h.min = v
	}
	h.max = max(h.max, v)
	h.count += n
	h.sum += v * n
	h.buckets[bucket(v)] += n
}

// merge adds what o has counted.
func (h *histogram) merge(o *histogram) {
	if o.count == 0 {
		return
	}
	if h.count == 0 || o.min < h.min {
		h.min = o.min
	}
	h.max = max(h.max, o.max)
	h.count += o.count
	h.sum += o.sum
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
}

// percentile is the smallest value that at least p percent of all are not above,
// rounded up to its bucket's largest; 0 < p <= 100. Without values it is 0.
func (h *histogram) percentile(p float64) uint64 {
	rank := uint64(p / 100 * float64(h.count))
	if float64(rank)*100 < p*float64(h.count) {
		rank++
	}
	rank = max(rank, 1)
	var seen uint64
	for i, n := range h.buckets {
		if seen += n; seen >= rank {
			return min(highest(i), h.max)
		}
	}
	return h.max
}

// mean is the arithmetic mean in nanoseconds, 0 without values.
func (h *histogram) mean() float64 {
	if h.count == 0 {
		return 0
	}
	return float64(h.sum) / float64(h.count)
}
