package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// The large image of docs/image-format.md ("Large and small"): 8 TiB in 131,072 zones,
// served by a process of its own. It prints figures and asserts nothing about
// time:
//
//	go test ./cmd/zvhost -run '^$' -bench LargeDisk -benchtime 5x
func BenchmarkLargeDisk(b *testing.B) {
	const zones, zoneSectors = 131_072, 64 << 20 >> 9
	dir, err := os.MkdirTemp("/dev/shm", "zvhost-bench-")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	image, socket := filepath.Join(dir, "disk.zvh"), filepath.Join(dir, "s")
	if status, _, stderr := zvhost("create", image, "--size", "8T", "--zone-size", "64M"); status != exitOK {
		b.Fatal(stderr)
	}
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	var start, report, resetAll, finishAll time.Duration
	var idle, busy uint64 // KiB
	for b.Loop() {
		cmd := exec.Command(self, "serve", "--socket-path", socket, "--blk-file", image)
		cmd.Env = append(os.Environ(), asProgram+"=1")
		t := time.Now()
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		var client *frontend.Client
		for {
			if client, err = frontend.Dial(socket); err == nil {
				break
			}
			time.Sleep(time.Millisecond / 4)
		}
		d, err := frontend.Open(client, frontend.Options{BufferBytes: 1 << 20})
		if err != nil {
			b.Fatal(err)
		}
		start += time.Since(t)
		idle += resident(b, cmd.Process.Pid)
		q := d.Queue(0)

		t = time.Now()
		all, err := q.ReportAll()
		if err != nil || len(all) != zones {
			b.Fatal(len(all), err)
		}
		report += time.Since(t)

		t = time.Now()
		for i := range uint64(zones) {
			if err := q.Zone(driver.TypeZoneFinish, i*zoneSectors); err != nil {
				b.Fatal(err)
			}
		}
		finishAll += time.Since(t)
		t = time.Now()
		if err := q.Zone(driver.TypeZoneResetAll, 0); err != nil {
			b.Fatal(err)
		}
		resetAll += time.Since(t)
		if err := q.Flush(); err != nil {
			b.Fatal(err)
		}
		busy += resident(b, cmd.Process.Pid)
		if err := d.Close(); err != nil {
			b.Fatal(err)
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			b.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			b.Fatal(err)
		}
	}
	per := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(b.N) }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(per(start), "start-ms")
	b.ReportMetric(per(report), "report-ms")
	b.ReportMetric(per(finishAll), "finish-each-ms")
	b.ReportMetric(per(resetAll), "reset-all-ms")
	b.ReportMetric(float64(idle)/1024/float64(b.N), "idle-MiB")
	b.ReportMetric(float64(busy)/1024/float64(b.N), "busy-MiB")
}

// resident is how much memory of its own a process has, in KiB: without that of
// its front-end and of files.
func resident(b *testing.B, pid int) uint64 {
	b.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatal("no RssAnon")
	return 0
}
