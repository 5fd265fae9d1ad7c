package frontend

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/virtio/blkclient"
	"github.com/zvhost/zvhost/virtio/driver"
)

// BenchmarkNotify measures a notification from the driver's register write to the device behind the
// session and back by an interrupt, and the processor time of both ends together.
func BenchmarkNotify(b *testing.B) {
	c, _ := serve(b, &ramDisk{}, blockDevice)
	d, err := Open(c, blkclient.Options{})
	check(b, err)
	q := d.Queue(0)
	done := make([]*blkclient.Request, 1)
	r := q.Get()
	r.Type = driver.TypeFlush
	b.ReportAllocs()
	before := cpuNS(b)
	b.ResetTimer()
	for range b.N {
		check(b, q.Submit(r))
		check(b, q.Kick())
		_, err := q.Wait(done)
		check(b, err)
	}
	b.StopTimer()
	b.ReportMetric(float64(cpuNS(b)-before)/float64(b.N), "cpu-ns/op")
	check(b, d.Close())
}

func cpuNS(b *testing.B) int64 {
	var t unix.Timespec
	check(b, unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t))
	return t.Nano()
}
