package bench

import (
	"fmt"
	"io"
	"time"
)

// Result is the result of a run. zvhost bench --json prints its JSON.
type Result struct {
	RW         RW      `json:"rw"`
	BlockBytes int     `json:"block_bytes"`
	Depth      int     `json:"iodepth"`
	Queues     int     `json:"queues"`
	Zones      int     `json:"zones,omitempty"` // written at once; of a zoned disk's writes only
	Poll       bool    `json:"poll"`
	Packed     bool    `json:"packed"`
	Bare       bool    `json:"bare"`    // the file itself, without a back-end
	Seconds    float64 `json:"seconds"` // from the first request to the last answer

	Requests       uint64  `json:"requests"` // answered, without the resets of zones
	IOPS           float64 `json:"iops"`
	BytesPerSecond float64 `json:"bytes_per_second"`
	Latency        Latency `json:"latency_ns"`

	// Resets are those of zones that were full.
	Resets       uint64  `json:"zone_resets"`
	ResetLatency Latency `json:"zone_reset_latency_ns"`

	ClientCPUSeconds float64 `json:"client_cpu_seconds"`
	ServerPID        int     `json:"server_pid"` // 0: not known, and then its time is 0
	ServerCPUSeconds float64 `json:"server_cpu_seconds"`
	// ServerEnded: this process has ended during the run, so its time is not known.
	ServerEnded bool `json:"server_ended"`
	// Kicks and Sleeps count how often the client woke the back-end, and slept.
	Kicks  uint64 `json:"kicks"`
	Sleeps uint64 `json:"sleeps"`
	// Error is why the run ended early; all other fields are measured until then.
	Error string `json:"error,omitempty"`
}

// Latency has the latencies of requests, in nanoseconds.
type Latency struct {
	Min  uint64  `json:"min"`
	Mean float64 `json:"mean"`
	P50  uint64  `json:"p50"`
	P90  uint64  `json:"p90"`
	P99  uint64  `json:"p99"`
	P999 uint64  `json:"p99_9"`
	P9k  uint64  `json:"p99_99"`
	Max  uint64  `json:"max"`
}

func (h *histogram) latency() Latency {
	return Latency{
		Min: h.min, Mean: h.mean(), Max: h.max,
		P50: h.percentile(50), P90: h.percentile(90), P99: h.percentile(99), P999: h.percentile(99.9), P9k: h.percentile(99.99),
	}
}

func newResult(c *Config, loops []looper, client, server time.Duration) Result {
	var latency, resets histogram
	r := Result{
		RW: c.RW, BlockBytes: c.BlockBytes, Depth: c.Depth, Queues: c.Queues, Poll: c.Poll, Packed: c.Packed, Bare: c.File != "",
		ClientCPUSeconds: client.Seconds(), ServerPID: c.ServerPID, ServerCPUSeconds: server.Seconds(),
	}
	for _, l := range loops {
		t := l.counts()
		latency.merge(&t.latency)
		resets.merge(&t.resets)
		r.Seconds = max(r.Seconds, time.Duration(t.ended).Seconds())
		r.Kicks += t.kicks
		r.Sleeps += t.sleeps
		if l, ok := l.(*loop); ok {
			if f, ok := l.work.(*filler); ok {
				r.Zones += len(f.zones)
			}
		}
	}
	r.Requests, r.Resets = latency.count, resets.count
	r.Latency, r.ResetLatency = latency.latency(), resets.latency()
	if r.Seconds > 0 {
		r.IOPS = float64(r.Requests) / r.Seconds
	}
	r.BytesPerSecond = r.IOPS * float64(c.BlockBytes)
	return r
}

// ClientNS and ServerNS are processor time per request, in nanoseconds.
func (r *Result) ClientNS() float64 { return perRequest(r.ClientCPUSeconds, r.Requests) }

// ServerNS is the server's, 0 if not known.
func (r *Result) ServerNS() float64 { return perRequest(r.ServerCPUSeconds, r.Requests) }

func perRequest(seconds float64, n uint64) float64 {
	if n == 0 {
		return 0
	}
	return seconds * 1e9 / float64(n)
}

// Write writes the result as text.
func (r *Result) Write(w io.Writer) error {
	how := "sleeping"
	if r.Poll {
		how = "polling"
	}
	if r.Packed {
		how += ", packed rings"
	}
	if r.Bare {
		how += ", the file itself by io_uring"
	}
	p := &printer{w: w}
	zones := ""
	if r.Zones > 0 {
		zones = fmt.Sprintf(" into %d zones", r.Zones)
	}
	p.line("%s of %d bytes%s, %d in flight in %d queues, client %s, %.2f s", r.RW, r.BlockBytes, zones, r.Depth, r.Queues, how, r.Seconds)
	p.line("  %s IOPS, %.1f MiB/s, %d requests", thousands(r.IOPS), r.BytesPerSecond/(1<<20), r.Requests)
	p.line("  latency  mean %s, least %s, most %s", micros(uint64(r.Latency.Mean)), micros(r.Latency.Min), micros(r.Latency.Max))
	p.line("           p50 %s, p90 %s, p99 %s, p99.9 %s, p99.99 %s",
		micros(r.Latency.P50), micros(r.Latency.P90), micros(r.Latency.P99), micros(r.Latency.P999), micros(r.Latency.P9k))
	if r.Resets > 0 {
		p.line("  besides  %d resets of full zones, mean %s, most %s", r.Resets, micros(uint64(r.ResetLatency.Mean)), micros(r.ResetLatency.Max))
	}
	p.line("  client   %s of a processor, %.0f ns a request; %s kicks, %s sleeps", percent(r.ClientCPUSeconds, r.Seconds), r.ClientNS(),
		thousands(float64(r.Kicks)), thousands(float64(r.Sleeps)))
	switch {
	case r.ServerEnded:
		p.line("  server   its process (pid %d) has ended during the run: its processor time is not known", r.ServerPID)
	case r.ServerPID != 0:
		p.line("  server   %s of a processor, %.0f ns a request (pid %d)", percent(r.ServerCPUSeconds, r.Seconds), r.ServerNS(), r.ServerPID)
	case !r.Bare:
		p.line("  server   its process is not known: give it with --server-pid")
	}
	return p.err
}

// printer remembers the first error.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func percent(part, whole float64) string {
	if whole == 0 {
		return "0%"
	}
	return fmt.Sprintf("%.0f%%", part/whole*100)
}

// thousands writes a number with about three digits.
func thousands(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.2fM", v/1e6)
	case v >= 1e5:
		return fmt.Sprintf("%.0fk", v/1e3)
	case v >= 1e4:
		return fmt.Sprintf("%.1fk", v/1e3)
	}
	return fmt.Sprintf("%.0f", v)
}

// micros writes nanoseconds for people.
func micros(ns uint64) string {
	us := float64(ns) / 1e3
	switch {
	case us >= 1e5:
		return fmt.Sprintf("%.1f ms", us/1e3)
	case us >= 1e4:
		return fmt.Sprintf("%.2f ms", us/1e3)
	case us >= 100:
		return fmt.Sprintf("%.0f us", us)
	}
	return fmt.Sprintf("%.1f us", us)
}

// Line is the progress as one line for a terminal.
func (p Progress) Line(c *Config) string {
	rate := 0.0
	if p.Since > 0 {
		rate = float64(p.Requests) / p.Since.Seconds()
	}
	left := max(c.Runtime-p.Elapsed, 0)
	return fmt.Sprintf("%s  %s IOPS  %.1f MiB/s  %.0f s left", c.RW, thousands(rate), rate*float64(c.BlockBytes)/(1<<20), left.Seconds())
}
