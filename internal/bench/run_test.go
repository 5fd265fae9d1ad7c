package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/virtio/blkclient"
	"github.com/zvhost/zvhost/virtio/driver"
)

func config(path string, rw RW) Config {
	c := Default()
	c.SocketPath, c.RW, c.Runtime, c.Depth = path, rw, 50*time.Millisecond, 8
	return c
}

func run(t *testing.T, c Config) Result {
	t.Helper()
	r, err := Run(context.Background(), c, nil)
	check(t, err)
	checkResult(t, &c, &r)
	return r
}

// until runs c, each time for twice as long, until it has done enough: a busy machine
// gets to little in a moment.
func until(t *testing.T, c Config, enough func(Result) bool) {
	t.Helper()
	for !enough(run(t, c)) {
		if c.Runtime *= 2; c.Runtime > time.Minute {
			t.Fatalf("%s does too little in %v", c.RW, c.Runtime/2)
		}
	}
}

// checkResult checks what is true of every result.
func checkResult(t *testing.T, c *Config, r *Result) {
	t.Helper()
	l := r.Latency
	if r.Requests == 0 || r.Seconds <= 0 || r.IOPS <= 0 || r.RW != c.RW || r.Queues != c.Queues || r.ServerPID != os.Getpid() {
		t.Errorf("%+v", r)
	}
	if l.Min > l.P50 || l.P50 > l.P90 || l.P90 > l.P99 || l.P99 > l.P999 || l.P999 > l.P9k || l.P9k > l.Max || l.Mean < float64(l.Min) || l.Mean > float64(l.Max) {
		t.Errorf("latencies %+v", l)
	}
	if r.ClientCPUSeconds <= 0 || r.ServerCPUSeconds <= 0 { // both are this process
		t.Errorf("processor time %v, %v", r.ClientCPUSeconds, r.ServerCPUSeconds)
	}
	if c.Poll && r.Sleeps != 0 {
		t.Errorf("polling, it slept %d times", r.Sleeps)
	}
}

// Every kind of request on an ordinary disk, sleeping and polling, alone and many
// at once. What was written stands there.
func TestOrdinary(t *testing.T) {
	const size = 1 << 20
	file := filepath.Join(t.TempDir(), "disk")
	check(t, os.WriteFile(file, make([]byte, size), 0o600))
	dk, err := backend.Open(file, disk.Options{})
	path := serve(t, dk, err)
	for _, rw := range []RW{Read, Write, RandRead, RandWrite} {
		for _, poll := range []bool{false, true} {
			for _, depth := range []int{1, 8} {
				c := config(path, rw)
				c.Poll, c.Depth, c.Queues, c.Packed = poll, depth, 1+depth%testQueues, poll != (depth == 1)
				r := run(t, c)
				if r.Resets != 0 || r.Zones != 0 || r.Latency.Max == 0 {
					t.Errorf("%+v", r)
				}
			}
		}
	}
	until(t, config(path, Write), func(r Result) bool { return r.Requests > size/4096 })
	got, err := os.ReadFile(file)
	check(t, err)
	// Each request is from a buffer that is no zeroes.
	for at := 0; at < size; at += 4096 {
		if bytes.Equal(got[at:at+4096], make([]byte, 4096)) {
			t.Fatalf("nothing was written at byte %d", at)
		}
	}
}

// On zones, what the result says was written and reset is what the zones hold.
func TestZoned(t *testing.T) {
	image := newImage(t)
	dk, err := backend.Open(image, disk.Options{})
	path := serve(t, dk, err)

	c := config(path, RandRead)
	c.BlockBytes = 512
	run(t, c) // of conventional zones

	for _, rw := range []RW{Write, Append} {
		for queues := 1; queues <= 2; queues++ {
			c := config(path, rw)
			c.Queues, c.Zones = queues, 5
			until(t, c, func(r Result) bool {
				const perZone = 12 // of 8 sectors, in 100
				var held uint64
				for i := range dk.Info().Zoned.Zones {
					if z := dk.ReportZone(i); z.Type != zone.Conventional && z.State != zone.Empty {
						held += (z.WP - z.Start) / 8
					}
				}
				if r.Requests != r.Resets*perZone+held || r.Zones != 5 {
					t.Errorf("%s in %d queues: %d requests, %d resets, the zones hold %d", rw, queues, r.Requests, r.Resets, held)
				}
				return r.Resets > 0 && r.ResetLatency.Max > 0
			})
		}
	}
	for _, rw := range []RW{Read, RandRead, Report} {
		run(t, config(path, rw))
	}
	for _, tt := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.RW = RandWrite }, "takes no random writes: use append or write"},
		{func(c *Config) { c.Zones = 9 }, "--zones=9: the disk allows 8 open zones"},
		{func(c *Config) { c.Zones, c.Queues = 1, 2 }, "each of the 2 queues needs a zone of its own"},
		{func(c *Config) { c.BlockBytes = 64 << 10 }, "takes appends of up to 32768 bytes, 65536"},
		{func(c *Config) { c.RW, c.BlockBytes = Write, 64<<10 }, "the disk has 0 zones that requests of 65536 bytes"},
		{func(c *Config) { c.RW, c.BlockBytes = Read, 128<<10 }, "no zone has 131072 bytes to read"},
		{func(c *Config) { c.Queues = testQueues + 1 }, "4 are too many"},
	} {
		c := config(path, Append)
		tt.change(&c)
		refused(t, c, tt.want)
	}
}

// refused checks that a run ends with an error of one line that says want.
func refused(t *testing.T, c Config, want string) {
	t.Helper()
	_, err := Run(context.Background(), c, nil)
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%+v: %v, want %q", c, err, want)
	}
}

func TestRefuses(t *testing.T) {
	null := serveNull(t, 64)
	refused(t, config(null, Append), "has no zones")
	refused(t, config(null, Report), "has no zones")
	c := config(null, Read)
	c.BlockBytes = 64 << 10
	refused(t, c, "the disk has 64 sectors, less than one request of 65536 bytes")
	refused(t, config(filepath.Join(t.TempDir(), "none"), Read), "no such file or directory")
	c = config("", Read)
	c.VFIOUser = filepath.Join(t.TempDir(), "none")
	refused(t, c, "zvhost serve with the same --vfio-user")
	c.VFIOUser = t.TempDir()
	refused(t, c, "not a socket: give the path that the back-end listens on (serve --vfio-user)")
	c = config(null, Read)
	c.ServerPID = maxPID
	refused(t, c, "processor time of process 4194304")
	refused(t, Config{}, "--socket-path")

	dk, err := backend.NewNull(64)
	check(t, err)
	fault, err := disk.ParseFault("read")
	check(t, err)
	_, err = dk.Faults().Add(fault)
	check(t, err)
	refused(t, config(serve(t, dk, nil), Read), "IOERR")

	file := filepath.Join(t.TempDir(), "disk")
	check(t, os.WriteFile(file, make([]byte, 1<<20), 0o600))
	dk, err = backend.Open(file, disk.Options{ReadOnly: true})
	ro := serve(t, dk, err)
	refused(t, config(ro, Write), "the disk is read-only")
	run(t, config(ro, RandRead))
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		change func(*Config)
		want   string // empty: good
	}{
		{func(*Config) {}, ""},
		{func(c *Config) { c.SocketPath = "" }, "--socket-path=PATH or --vfio-user=PATH"},
		{func(c *Config) { c.VFIOUser = "v" }, "--vfio-user excludes"},
		{func(c *Config) { c.SocketPath, c.File, c.VFIOUser = "", "f", "v" }, "--vfio-user excludes"},
		{func(c *Config) { c.SocketPath, c.VFIOUser = "", "v" }, ""},
		{func(c *Config) { c.RW = "rw" }, "--rw=rw: must be read, write, randread, randwrite, append or report"},
		{func(c *Config) { c.BlockBytes = 1000 }, "--bs: 1000 bytes"},
		{func(c *Config) { c.BlockBytes = 0 }, "--bs"},
		{func(c *Config) { c.BlockBytes = MaxBlockBytes }, ""},
		{func(c *Config) { c.BlockBytes = MaxBlockBytes + 512 }, "up to 16 MiB"},
		{func(c *Config) { c.Depth = 0 }, "--iodepth=0: must be 1 to 1024"},
		{func(c *Config) { c.Depth = 1025 }, "--iodepth"},
		{func(c *Config) { c.Queues = 0 }, "--queues=0"},
		{func(c *Config) { c.Queues = 257 }, "--queues"},
		{func(c *Config) { c.Zones = 0 }, "--zones=0"},
		{func(c *Config) { c.File = "f" }, "exclude each other"},
		{func(c *Config) { c.Direct = true }, "--cache is for --blk-file"},
		{func(c *Config) { c.SocketPath, c.File, c.Direct = "", "f", true }, ""},
		{func(c *Config) { c.SocketPath, c.File, c.RW = "", "f", Append }, "takes reads and writes"},
		{func(c *Config) { c.Runtime = 0 }, "--runtime"},
		{func(c *Config) { c.Timeout = 0 }, "--timeout=0s: must be at least 1ms"},
		{func(c *Config) { c.ServerPID = -1 }, "--server-pid"},
		{func(c *Config) { c.ServerPID = maxPID + 1 }, "--server-pid"},
		{func(c *Config) { c.Depth, c.BlockBytes, c.Queues = 1024, 1<<20, 9 }, "more than 8 GiB of memory"},
	} {
		c := config("s", Read)
		tt.change(&c)
		err := c.Validate()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%+v: %v, want %q", c, err, tt.want)
		}
	}
}

// Progress is told, and the end of the context ends the run, with a result.
func TestProgress(t *testing.T) {
	c := config(serveNull(t, 1<<20), RandWrite)
	c.Runtime = time.Hour
	ctx, stop := context.WithCancel(context.Background())
	told := 0
	r, err := Run(ctx, c, func(p Progress) {
		if told++; p.Requests == 0 || p.Since <= 0 || p.Elapsed <= 0 {
			t.Errorf("%+v", p)
		}
		stop()
	})
	check(t, err)
	checkResult(t, &c, &r)
	if told == 0 {
		t.Error("no progress was told")
	}
	p := Progress{Elapsed: 4 * time.Second, Since: 500 * time.Millisecond, Requests: 50_000}
	c.Runtime = 10 * time.Second
	if got, want := p.Line(&c), "randwrite  100k IOPS  390.6 MiB/s  6 s left"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// What is printed, and its JSON.
func TestResultGolden(t *testing.T) {
	r := Result{
		RW: Append, BlockBytes: 4096, Depth: 32, Queues: 1, Zones: 4, Seconds: 2,
		Requests: 200_000, IOPS: 100_000, BytesPerSecond: 409_600_000,
		Latency:          Latency{Min: 5000, Mean: 31_000, P50: 30_000, P90: 40_100, P99: 99_900, P999: 150_400, P9k: 12_000_000, Max: 340_000_000},
		Resets:           12,
		ResetLatency:     Latency{Min: 10, Mean: 20_000, Max: 90_000},
		ClientCPUSeconds: 0.5, ServerPID: 42, ServerCPUSeconds: 1, Kicks: 9000, Sleeps: 12_345,
	}
	const want = `append of 4096 bytes into 4 zones, 32 in flight in 1 queues, client sleeping, 2.00 s
  100k IOPS, 390.6 MiB/s, 200000 requests
  latency  mean 31.0 us, least 5.0 us, most 340.0 ms
           p50 30.0 us, p90 40.1 us, p99 99.9 us, p99.9 150 us, p99.99 12.00 ms
  besides  12 resets of full zones, mean 20.0 us, most 90.0 us
  client   25% of a processor, 2500 ns a request; 9000 kicks, 12.3k sleeps
  server   50% of a processor, 5000 ns a request (pid 42)
`
	var b strings.Builder
	check(t, r.Write(&b))
	if b.String() != want {
		t.Errorf("%s, want\n%s", b.String(), want)
	}
	text, err := json.Marshal(r)
	check(t, err)
	var back Result
	if err := json.Unmarshal(text, &back); err != nil || back != r {
		t.Errorf("%v: %s", err, text)
	}
	r = Result{Poll: true, Packed: true}
	b.Reset()
	check(t, r.Write(&b))
	if !strings.Contains(b.String(), "client polling, packed rings") || !strings.Contains(b.String(), "--server-pid") {
		t.Error(b.String())
	}
	if err := r.Write(noWriter{}); err == nil {
		t.Error("a write that failed was not told")
	}
}

type noWriter struct{}

func (noWriter) Write([]byte) (int, error) { return 0, errors.New("no") }

// A round of the loop allocates nothing, nor does the daemon at its other end.
func TestNoAllocation(t *testing.T) {
	dk, err := backend.Open(newImage(t), disk.Options{})
	zoned, null := serve(t, dk, err), serveNull(t, 1<<20)
	for _, c := range []Config{config(null, Read), config(null, RandWrite), config(zoned, Append), config(zoned, Write), config(zoned, Report)} {
		for _, c.Poll = range []bool{false, true} {
			c.Packed = c.Poll
			client, err := dial(&c)
			check(t, err)
			d, err := client.open(options(&c))
			check(t, err)
			works, err := plan(&c, d)
			check(t, err)
			l := newLoop(d.Queue(0), works[0], &c)
			l.start = time.Now()
			round := func() {
				if err := l.send(0); err != nil {
					t.Fatal(err)
				}
				if _, err := l.reap(); err != nil {
					t.Fatal(err)
				}
			}
			for range 100 {
				round()
			}
			// The runtime allocates too, now and then, but not each time.
			got := 1.0
			for try := 0; try < 5 && got != 0; try++ {
				got = testing.AllocsPerRun(100, round)
			}
			if got != 0 {
				t.Errorf("%s, polling %v: %v allocations in a round", c.RW, c.Poll, got)
			}
			var h halt
			h.stop.Store(true)
			check(t, l.run(time.Now(), 1, &h))
			if d.Queue(0).InFlight() != 0 || l.latency.count == 0 {
				t.Errorf("%s: %d in flight at the end", c.RW, d.Queue(0).InFlight())
			}
			check(t, d.Close())
		}
	}
}

// The most that can be in flight, and what a back-end without indirect descriptors
// has room for.
func TestDepth(t *testing.T) {
	c := config(serveNull(t, 1<<20), RandRead)
	c.Depth = MaxDepth
	run(t, c)
	for _, tt := range []struct {
		depth int
		want  string // empty: no error
	}{{42, ""}, {43, "--iodepth=43: without indirect descriptors, which this back-end does not offer, at most 42 fit"}} {
		c.Depth = tt.depth
		client, err := dial(&c)
		check(t, err)
		o := options(&c)
		o.Without = driver.FeatureIndirectDesc
		d, err := client.open(o)
		check(t, err)
		if _, err := plan(&c, d); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("depth %d: %v", tt.depth, err)
		}
		check(t, d.Close())
	}
}

// A back-end that does not answer ends the run with an error, polling and sleeping.
func TestNoAnswer(t *testing.T) {
	for _, poll := range []bool{false, true} {
		dk, err := backend.NewNull(64)
		check(t, err)
		fault, err := disk.ParseFault("latency=1h,times=1")
		check(t, err)
		_, err = dk.Faults().Add(fault)
		check(t, err)
		c := config(serve(t, dk, nil), Read)
		client, err := dial(&c)
		check(t, err)
		o := options(&c)
		o.Timeout = 50 * time.Millisecond
		d, err := client.open(o)
		check(t, err)
		q := d.Queue(0)
		r := q.Get()
		r.Type = driver.TypeIn
		r.SetLen(512)
		check(t, q.Submit(r))
		check(t, q.Kick())
		back := make([]*blkclient.Request, 1)
		if poll {
			_, err = q.Spin(back)
		} else {
			_, err = q.Wait(back)
		}
		if err == nil || !strings.Contains(err.Error(), "no completion within 50ms, 1 requests in flight") {
			t.Errorf("polling %v: %v", poll, err)
		}
		check(t, d.Abandon())
	}
}
