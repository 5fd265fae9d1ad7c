package main

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"testing"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// zones reads the zones of disk.zvh as a program would.
func zones(t *testing.T) []zoneJSON {
	t.Helper()
	var r reportJSON
	if err := json.Unmarshal([]byte(must(t, "report", "disk.zvh", "--json")), &r); err != nil {
		t.Fatal(err)
	}
	return r.Zones
}

func written(z zoneJSON) uint64 { return *z.WritePointer - z.StartSector }

// What a guest is told, what the report beside the daemon says, and what stands
// there after the next start are the same.
func TestServesAndRemembers(t *testing.T) {
	imageHere(t)
	data := bytes.Repeat([]byte("zone"), 1024) // 8 sectors
	args := []string{"serve", "--socket-path", "s", "--blk-file", "disk.zvh", "--queues", "2", "--serial", "E2E-1"}

	p := start(t, "", nil, nil, args...)
	p.until("serving")
	d, err := frontend.Open(dial(t, "s"), frontend.Options{Queues: 2})
	if err != nil {
		t.Fatal(err)
	}
	if id, err := d.Queue(0).ID(); err != nil || id != "E2E-1" {
		t.Errorf("the serial number is %q, %v", id, err)
	}
	for i := range uint64(3) {
		if at, err := d.Queue(int(i)%2).Append(data, 128); err != nil || at != 128+8*i {
			t.Fatalf("append %d went to sector %d, %v", i, at, err)
		}
	}
	if z := zones(t)[1]; z.State != "imp-open" || written(z) != 24 {
		t.Errorf("zone 1, beside the daemon: %+v", z)
	}
	p.signal(unix.SIGTERM)
	if status := p.wait(); status != exitOK {
		t.Fatalf("status %d:\n%s", status, p.logged())
	}
	_ = d.Abandon()
	if out := must(t, "check", "disk.zvh"); out != "disk.zvh: sound\n" {
		t.Errorf("check says %q", out)
	}

	p = start(t, "", nil, nil, args...)
	p.until("serving")
	if d, err = frontend.Open(dial(t, "s"), frontend.Options{}); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(data))
	if err := d.Queue(0).Read(got, 128+16); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the last append reads back as %.8q, %v", got, err)
	}
	if at, err := d.Queue(0).Append(data, 128); err != nil || at != 128+24 {
		t.Errorf("the next append went to sector %d, %v", at, err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// Without the command, as management software starts it, zvhost serves as serve does.
func TestServesWithoutCommand(t *testing.T) {
	root, serve := newServeOptions(), newServeOptions()
	root.addConventional(pflag.NewFlagSet("", pflag.ContinueOnError))
	serve.add(pflag.NewFlagSet("", pflag.ContinueOnError))
	if !reflect.DeepEqual(root, serve) {
		t.Errorf("without flags serve has\n%+v, and no command\n%+v", *serve, *root)
	}
}

// A disk without storage takes everything, and keeps nothing.
func TestServesNoStorage(t *testing.T) {
	t.Chdir(t.TempDir())
	p := start(t, "", nil, nil, "serve", "--socket-path", "s", "--null", "--null-size", "1G")
	p.until("serving no storage (--null) on s: ordinary disk of 1 GiB")
	d, err := frontend.Open(dial(t, "s"), frontend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	q := d.Queue(0)
	data, got := bytes.Repeat([]byte("null"), 1024), make([]byte, 4096)
	for _, err := range []error{q.Write(data, 2097152-8), q.Flush(), q.Read(got, 2097152-8), q.Discard(frontend.Segment{Sectors: 8})} {
		if err != nil {
			t.Error(err)
		}
	}
	if err := q.Write(data, 2097152); frontend.Status(err) != driver.StatusIOErr {
		t.Errorf("a write behind the end: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	p.signal(unix.SIGTERM)
	if status := p.wait(); status != exitOK {
		t.Fatalf("status %d:\n%s", status, p.logged())
	}
}

// SIGTERM under load: every request that the daemon took is carried out and
// answered, and none by half.
func TestDrainsOnSIGTERM(t *testing.T) {
	imageHere(t)
	p := start(t, "", nil, nil, "serve", "--socket-path", "s", "--blk-file", "disk.zvh")
	p.until("serving")
	d, err := frontend.Open(dial(t, "s"), frontend.Options{QueueSize: 64, Depth: 15, BufferBytes: 4096}) // 15 of 16 blocks of the zone
	if err != nil {
		t.Fatal(err)
	}
	q := d.Queue(0)
	for r := q.Get(); r != nil; r = q.Get() {
		r.Type, r.Sector = driver.TypeZoneAppend, 128
		r.SetLen(4096)
		if err := q.Submit(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.Kick(); err != nil {
		t.Fatal(err)
	}
	p.signal(unix.SIGTERM)
	if status := p.wait(); status != exitOK {
		t.Fatalf("status %d:\n%s", status, p.logged())
	}
	// The answers are in guest memory, whoever may still ring a bell.
	answered := uint64(0)
	for done := make([]*frontend.Request, 16); ; {
		n, err := q.Poll(done)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		for _, r := range done[:n] {
			if r.Status != driver.StatusOK {
				t.Errorf("status %d", r.Status)
			}
			answered++
		}
	}
	_ = d.Abandon()
	if z := zones(t)[1]; written(z) != 8*answered {
		t.Errorf("%d appends of 8 sectors were answered, but the zone is %+v", answered, z)
	}
	must(t, "check", "disk.zvh")
}

// What a guest does not see of a file whose size is no whole number of blocks is said.
func TestOddSize(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("odd.raw", make([]byte, 1<<20+700), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, "", nil, nil, "serve", "--socket-path", "s", "--blk-file", "odd.raw")
	p.until("odd.raw: the last 188 of its 1049276 bytes are not served, for they are no whole block of 512; to serve them make the file longer (truncate -s 1049600)")
	p.signal(os.Interrupt)
	if status := p.wait(); status != exitOK {
		t.Errorf("status %d: %s", status, p.logged())
	}
}
