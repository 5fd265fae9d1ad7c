package frontend

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/testleak"
	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/transport"
)

func TestMain(m *testing.M) { testleak.Main(m) }

// serve starts a session on dev, and returns a client that is connected to it.
// The session must end without an error by the end of the test, unless want
// says what words the error has.
func serve(t testing.TB, dev transport.Device, want string) *Client {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		ends[i] = c.(*net.UnixConn)
	}
	var mu sync.Mutex
	var log []string
	s := vhostuser.NewSession(ends[0], dev, vhostuser.Options{Trace: true, Log: func(l vhostuser.Level, format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		log = append(log, fmt.Sprintf(format, args...))
	}})
	done := make(chan error, 1)
	go func() { done <- s.Run() }()
	c, err := New(ends[1])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		err := <-done
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("the session ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the session's log:\n\t%s", strings.Join(log, "\n\t"))
		}
	})
	return c
}

func open(t testing.TB, dev transport.Device, o Options) *Disk {
	t.Helper()
	d, err := Open(serve(t, dev, ""), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)*7 + byte(i>>8) + seed
	}
	return b
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Every request, with each kind of negotiation.
func TestRequests(t *testing.T) {
	for _, c := range []struct {
		name string
		o    Options
	}{
		{"all", Options{}},
		{"two queues", Options{Queues: 2, QueueSize: 16}},
		{"no event index", Options{Without: driver.FeatureEventIdx}},
		{"no indirect tables", Options{Without: driver.FeatureIndirectDesc, BufferBytes: 8192}},
		{"neither", Options{Without: driver.FeatureEventIdx | driver.FeatureIndirectDesc}},
		{"small segments", Options{SegmentBytes: 512, BufferBytes: 8192}},
		{"no memory slots", Options{WithoutProtocol: vhostuser.ProtocolConfigureMemSlots}},
		{"no acknowledgements", Options{WithoutProtocol: vhostuser.ProtocolReplyAck}},
		{"no status", Options{WithoutProtocol: vhostuser.ProtocolStatus}},
		{"no protocol features", Options{Without: vhostuser.FeatureProtocol}},
		{"one request", Options{Depth: 1, QueueSize: 64}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dev := newRAMDisk(2)
			d := open(t, dev, c.o)
			for i := range max(1, c.o.Queues) {
				testRequests(t, d, d.Queue(i))
			}
			if has := c.o.Without&vhostuser.FeatureProtocol == 0; has != (d.ConfigBytes == driver.BlkConfigBytes) || has != (d.Config.ZoneSectors == zoneSectors) {
				t.Errorf("configuration of %d bytes: %+v", d.ConfigBytes, d.Config)
			}
		})
	}
}

func testRequests(t *testing.T, d *Disk, q *Queue) {
	t.Helper()
	data, got := pattern(4096, 1), make([]byte, 4096)
	check(t, q.Write(data, 8))
	check(t, q.Flush())
	check(t, q.Read(got, 8))
	if !bytes.Equal(got, data) {
		t.Fatal("what was written does not read back")
	}
	check(t, q.WriteZeroes(Segment{Sector: 9, Sectors: 1}, Segment{Sector: 11, Sectors: 2, Flags: 1}))
	check(t, q.Discard(Segment{Sector: 15, Sectors: 1}))
	check(t, q.Read(got, 8))
	clear(data[512:1024])
	clear(data[1536:2560])
	clear(data[3584:])
	if !bytes.Equal(got, data) {
		t.Fatal("not what should be zeroes is")
	}
	id, err := q.ID()
	check(t, err)
	if id != "ram disk" {
		t.Fatalf("ID %q", id)
	}
	check(t, q.Zone(driver.TypeZoneReset, 2*zoneSectors))
	for i := range uint64(2) {
		sector, err := q.Append(data, 2*zoneSectors)
		check(t, err)
		if sector != 2*zoneSectors+8*i {
			t.Fatalf("append %d landed at sector %d", i, sector)
		}
	}
	if _, err := q.Append(data, 2*zoneSectors); Status(err) != driver.StatusZoneInvalidCmd {
		t.Fatalf("append into a full zone: %v", err)
	}
	zones, err := q.Report(5*zoneSectors, 2)
	check(t, err)
	if len(zones) != 2 || zones[0].Start != 5*zoneSectors || zones[1].WP != 6*zoneSectors {
		t.Fatalf("report %+v", zones)
	}
	if d.Config.ZoneSectors != 0 {
		zones, err = q.ReportAll()
		check(t, err)
		if len(zones) != zoneCount || zones[2].WP != 3*zoneSectors || zones[2].Type != driver.ZoneTypeSWR {
			t.Fatalf("report %+v", zones)
		}
	}
	err = q.Read(got, math.MaxUint32)
	if want := (StatusError{Type: driver.TypeIn, Sector: math.MaxUint32, Status: driver.StatusIOErr}); !errors.Is(err, want) || !strings.Contains(err.Error(), "IOERR") {
		t.Fatalf("read outside: %v", err)
	}
	if err := q.Zone(99, 0); Status(err) != driver.StatusUnsupp {
		t.Fatalf("unknown request: %v", err)
	}
	if err := q.Write(make([]byte, d.opt.BufferBytes+512), 0); Status(err) != driver.StatusNone {
		t.Fatalf("too long a write: %v", err)
	}
	if q.InFlight() != 0 {
		t.Fatalf("%d requests in flight", q.InFlight())
	}
}

// A front-end that leaves in the middle of load, and the next one.
func TestAbandon(t *testing.T) {
	dev := newRAMDisk(2)
	for range 5 {
		t.Run("", func(t *testing.T) {
			d, err := Open(serve(t, dev, ""), Options{Queues: 2})
			check(t, err)
			for i := range 2 {
				q := d.Queue(i)
				for r := q.Get(); r != nil; r = q.Get() {
					r.Type = driver.TypeOut
					r.SetLen(512)
					check(t, q.Submit(r))
				}
				check(t, q.Kick())
			}
			check(t, d.Abandon())
		})
	}
}

func TestRefusals(t *testing.T) {
	c := serve(t, newRAMDisk(1), "")
	check(t, c.SetProtocolFeatures(vhostuser.Offered))
	if err := c.SetFeatures(1 << 40); err != (RefusedError{vhostuser.SetFeatures}) {
		t.Fatalf("features: %v", err)
	}
	if _, err := c.Config(90, 7); err != (RefusedError{vhostuser.GetConfig}) {
		t.Fatalf("config: %v", err)
	}
	if err := c.SetVringKick(0, -1); err != (RefusedError{vhostuser.SetVringKick}) {
		t.Fatalf("polling: %v", err)
	}
	check(t, c.SetVringCall(0, -1))
	check(t, c.SetVringErr(0, -1))
	check(t, c.SetConfig(32, []byte{1}))
	if b, err := c.Config(30, 4); err != nil || !bytes.Equal(b, []byte{0, 0, 1, 0}) {
		t.Fatalf("config %x, %v", b, err)
	}
	if n, err := c.MaxMemSlots(); err != nil || n != vhostuser.MaxMemSlots {
		t.Fatalf("%d memory slots, %v", n, err)
	}
	check(t, c.ResetDevice())
	// Bytes of any kind can be sent as well.
	check(t, c.SendRaw(vhostuser.Header{Request: vhostuser.GetQueueNum, Flags: vhostuser.Version}.Append(nil)))
	if m, err := c.Receive(); err != nil || m.String() != "GET_QUEUE_NUM 1" {
		t.Fatalf("%v, %v", m, err)
	}
}

func TestOpenFails(t *testing.T) {
	refusing := newRAMDisk(1)
	refusing.refuse = errors.New("this disk needs ZONED")
	for _, c := range []struct {
		name, session, words string
		dev                  *ramDisk
		o                    Options
	}{
		{"too many queues", "", "1 queues, 3 are too many", newRAMDisk(1), Options{Queues: 3}},
		{"refused", "", "refused SET_FEATURES", refusing, Options{}},
		{"refused without acknowledgement", "", "does not take these features", refusing, Options{WithoutProtocol: vhostuser.ProtocolReplyAck}},
		{"ring size", "", "ring of 24 entries", newRAMDisk(1), Options{QueueSize: 24}},
		{"segments", "", "have 256 of them, the disk allows 64", newRAMDisk(1), Options{BufferBytes: 1 << 20}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := Open(serve(t, c.dev, c.session), c.o)
			if d != nil || err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestDial(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if _, err := Dial(path); err == nil {
		t.Fatal("connected to nothing")
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	check(t, err)
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		uc, err := l.AcceptUnix()
		if err == nil {
			err = vhostuser.NewSession(uc, newRAMDisk(1), vhostuser.Options{}).Run()
		}
		done <- err
	}()
	c, err := Dial(path)
	check(t, err)
	d, err := Open(c, Options{})
	check(t, err)
	check(t, d.Queue(0).Flush())
	check(t, d.Close())
	check(t, <-done)
}

// Looking again and again instead of sleeping, and who is at the other end.
func TestSpin(t *testing.T) {
	c := serve(t, newRAMDisk(1), "")
	if pid, err := c.PeerPID(); err != nil || pid != os.Getpid() {
		t.Fatalf("the other end is process %d, %v", pid, err)
	}
	d, err := Open(c, Options{})
	check(t, err)
	q := d.Queue(0)
	done := make([]*Request, 4)
	for i := range 300 {
		r := q.Get()
		r.Type, r.Tag = driver.TypeIn, uint64(i)
		r.SetLen(512)
		check(t, q.Submit(r))
		check(t, q.Kick())
		if n, err := q.Spin(done); n != 1 || err != nil || done[0].Tag != uint64(i) || done[0].Status != driver.StatusOK {
			t.Fatalf("%d of them, %v", n, err)
		}
		q.Put(r)
	}
	if q.Kicks == 0 || q.Sleeps != 0 {
		t.Errorf("%d kicks, %d sleeps", q.Kicks, q.Sleeps)
	}
	q.Timeout = time.Millisecond
	if _, err := q.Spin(done); err == nil || !strings.Contains(err.Error(), "no completion within 1ms") {
		t.Errorf("nothing in flight: %v", err)
	}
	q.Timeout = 0
	check(t, unix.Shutdown(c.sock.Int(), unix.SHUT_RDWR))
	if _, err := q.Spin(done); !errors.Is(err, ErrGone) {
		t.Errorf("the back-end is gone: %v", err)
	}
	check(t, d.Abandon())
}
