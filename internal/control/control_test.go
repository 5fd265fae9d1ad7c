package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/testleak"
)

func TestMain(m *testing.M) { testleak.Main(m) }

// A rig is a server over a new image of 16 zones, two of them conventional.
type rig struct {
	t      testing.TB
	path   string // of the socket
	disk   disk.Disk
	server *Server

	mu    sync.Mutex
	notes []string
}

func (r *rig) note(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, line)
}

func newDisk(t testing.TB) disk.Disk {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.zvh")
	if err := image.Create(path, zone.Geometry{CapacitySectors: 2048, ZoneSectors: 128, ConventionalZones: 2}); err != nil {
		t.Fatal(err)
	}
	d, err := backend.Open(path, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if findings, err := image.Check(path); err != nil || len(findings) > 0 {
			t.Errorf("the image: %v, %v", findings, err)
		}
	})
	return d
}

// newRig starts a server, which change may change first.
func newRig(t testing.TB, change func(*Server)) *rig {
	t.Helper()
	r := &rig{t: t, disk: newDisk(t)}
	// Not under the test's folder: a socket's path must be short.
	dir, err := os.MkdirTemp("", "zv")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r.path = filepath.Join(dir, "c")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: r.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	r.server = NewServer(r.disk, r.note)
	if change != nil {
		change(r.server)
	}
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(l) }()
	t.Cleanup(func() {
		_ = l.Close()
		r.server.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) call(q Request) Answer {
	r.t.Helper()
	a, err := Call(r.path, q)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

// refused calls with what has to be refused with words.
func (r *rig) refused(q Request, words string) {
	r.t.Helper()
	_, err := Call(r.path, q)
	if err == nil || !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), "\n") {
		r.t.Errorf("%+v: %v, want %q", q, err, words)
	}
}

func faults(t testing.TB, lines ...string) (fs []disk.Fault) {
	t.Helper()
	for _, line := range lines {
		f, err := disk.ParseFault(line)
		if err != nil {
			t.Fatal(err)
		}
		fs = append(fs, f)
	}
	return fs
}

// Each command does what it says, and says what is wrong.
func TestCommands(t *testing.T) {
	r := newRig(t, nil)
	if a := r.call(Request{Command: FaultList}); len(a.Faults) != 0 {
		t.Errorf("%+v", a)
	}
	if a := r.call(Request{Command: FaultAdd, Faults: faults(t, "write,zone=5,once", "flush")}); len(a.IDs) != 2 || a.IDs[0] != 1 || a.IDs[1] != 2 {
		t.Errorf("%+v", a)
	}
	r.call(Request{Command: FaultAdd, Faults: faults(t, "read,sectors=1-2")})
	a := r.call(Request{Command: FaultList})
	if len(a.Faults) != 3 || a.Faults[2].ID != 3 || a.Faults[2].Fault.String() != "read,sectors=1-2" {
		t.Errorf("%+v", a)
	}
	r.refused(Request{Command: FaultAdd}, "no fault")
	r.refused(Request{Command: FaultAdd, Faults: faults(t, "flush", "write,zone=16")}, "zone 16 is beyond the last, 15")
	r.refused(Request{Command: FaultClear, IDs: []uint64{1, 9}}, "no fault 9")
	if a := r.call(Request{Command: FaultClear, IDs: []uint64{1, 1}}); a.Cleared != 1 {
		t.Errorf("%+v", a)
	}
	if a := r.call(Request{Command: FaultClear}); a.Cleared != 2 {
		t.Errorf("%+v", a)
	}

	if a := r.call(Request{Command: SetState, Zones: "3,5-7", State: "offline"}); a.Zones != 4 || r.disk.ReportZone(6).State != zone.Offline {
		t.Errorf("%+v", a)
	}
	r.refused(Request{Command: SetState, Zones: "all", State: "full"}, "zone 0 cannot be made full: it is conventional")
	r.refused(Request{Command: SetState, Zones: "x", State: "full"}, "want numbers and ranges")
	r.refused(Request{Command: SetState, Zones: "3", State: "broken"}, "want read-only, offline, full, empty or writable")
	r.call(Request{Command: SetState, Zones: "all", State: "writable"})
	r.refused(Request{Command: "fault-invent"}, `unknown command "fault-invent"`)
	r.refused(Request{Command: FaultClear, IDs: make([]uint64, MaxLine)}, "too much for one request")
	want := []string{
		"fault 1: write,zone=5,once", "fault 2: flush", "fault 3: read,sectors=1-2", "faults cleared: 1", "faults cleared: 2",
		"zones 3,5-7: offline", "zones all: writable",
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.notes, want) {
		t.Errorf("noted %q, want %q", r.notes, want)
	}
}

// Clients are served side by side, more than have a place; each may go on after
// its first request.
func TestSeveralClients(t *testing.T) {
	r := newRig(t, nil)
	var wg sync.WaitGroup
	for i := range 2 * maxClients {
		wg.Go(func() {
			for range 5 {
				a, err := Call(r.path, Request{Command: FaultAdd, Faults: faults(t, fmt.Sprintf("read,zone=%d", i%16))})
				if err == nil {
					_, err = Call(r.path, Request{Command: FaultClear, IDs: a.IDs})
				}
				if err == nil {
					_, err = Call(r.path, Request{Command: SetState, Zones: fmt.Sprint(2 + i%14), State: []string{"offline", "empty"}[i%2]})
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	conn := r.dial()
	lines := bufio.NewReader(conn)
	for range 3 {
		r.send(conn, `{"command":"fault-list"}`+"\n")
		if line, err := lines.ReadString('\n'); err != nil || line != "{}\n" {
			t.Errorf("%q, %v", line, err)
		}
	}
}

func (r *rig) dial() net.Conn {
	r.t.Helper()
	conn, err := net.Dial("unix", r.path)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (r *rig) send(conn net.Conn, s string) {
	r.t.Helper()
	if _, err := io.WriteString(conn, s); err != nil {
		r.t.Fatal(err)
	}
}

// Whatever a client sends costs it its connection or an error, and nobody else
// anything.
func TestHostileClients(t *testing.T) {
	r := newRig(t, nil)
	for sent, want := range map[string]string{
		"\n":                                    "not a request",
		"null\n":                                `unknown command ""`,
		"[]\n":                                  "not a request",
		"\x00\xff\n":                            "not a request",
		`{"command":"fault-list"}{}` + "\n":     "something behind it",
		`{"command":"fault-list","x":1}` + "\n": "unknown field",
		`{"command":1}` + "\n":                  "not a request",
		`{"command":"fault-add","faults":["boo"]}` + "\n":        "no kind of fault",
		`{"command":"fault-add","faults":[7]}` + "\n":            "not a request",
		`{"command":"fault-clear","ids":[-1]}` + "\n":            "not a request",
		`{"command":"set-state","zones":"0-99999999999"}` + "\n": "more than any disk has",
		strings.Repeat("[", MaxLine-1) + "\n":                    "not a request",
		strings.Repeat(" ", MaxLine):                             "more than 65536 bytes",
	} {
		conn := r.dial()
		r.send(conn, sent)
		line, err := bufio.NewReader(conn).ReadBytes('\n')
		var a Answer
		if err != nil || json.Unmarshal(line, &a) != nil || !strings.Contains(a.Error, want) {
			t.Errorf("%.40q: %s, %v, want %q", sent, line, err, want)
		}
	}
	for _, sent := range []string{"", "{", `{"command":"fault-add","faults":["flush"]}`} { // and then leaves
		conn := r.dial()
		r.send(conn, sent)
		_ = conn.Close()
	}
	if a := r.call(Request{Command: FaultList}); len(a.Faults) != 0 {
		t.Errorf("%+v", a)
	}
}

// Clients that say nothing, or do not take their answers, keep their places for
// as long as the server has patience, and no longer.
func TestSlowClients(t *testing.T) {
	r := newRig(t, func(s *Server) { s.patience = time.Second })
	var many []disk.Fault
	for range 900 {
		many = append(many, faults(t, "latency=1s,op=read,op=write,op=append,zone=3-14,times=100000")...)
	}
	if _, err := r.disk.Faults().Add(many...); err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	for i := range 2 * maxClients {
		conn := r.dial()
		conns = append(conns, conn)
		if i%2 == 0 { // asks for much, and reads none of it
			r.send(conn, strings.Repeat(`{"command":"fault-list"}`+"\n", 100))
		} else {
			r.send(conn, `{"comm`)
		}
	}
	if a := r.call(Request{Command: FaultList}); len(a.Faults) != len(many) {
		t.Errorf("%d faults", len(a.Faults))
	}
	for i, conn := range conns {
		if i%2 == 1 {
			if n, err := io.Copy(io.Discard, conn); n != 0 && !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("it was answered %d bytes, %v", n, err)
			}
		}
	}
}

// Clients that say nothing cost nobody: whoever comes next takes the place of the one that
// has been silent for longest.
func TestSilentClientsCostNobody(t *testing.T) {
	r := newRig(t, func(s *Server) { s.patience, s.grace = time.Hour, 10*time.Millisecond })
	first := r.dial()
	lines := bufio.NewReader(first)
	ask := func() {
		t.Helper()
		r.send(first, `{"command":"fault-list"}`+"\n")
		if line, err := lines.ReadString('\n'); err != nil || line != "{}\n" {
			t.Errorf("%q, %v", line, err)
		}
	}
	ask()
	for i := range 3 * maxClients {
		conn := r.dial()
		if i%2 == 1 {
			r.send(conn, `{"comm`)
		}
		if i%(maxClients/4) == 0 {
			r.call(Request{Command: FaultList})
		}
	}
	r.call(Request{Command: FaultList})
	if n, err := first.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("the client that was silent for longest has its place still: %d, %v", n, err)
	}
}

// Only root and the daemon's own user are served, whatever the socket's mode.
func TestStrangers(t *testing.T) {
	var asked uint32
	r := newRig(t, func(s *Server) {
		s.allowed = func(uid uint32) bool { asked = uid; return false }
	})
	r.refused(Request{Command: FaultList}, fmt.Sprintf("user %d may not do this", os.Getuid()))
	if asked != uint32(os.Getuid()) {
		t.Errorf("asked about user %d", asked)
	}
	own := uint32(os.Geteuid())
	for uid, want := range map[uint32]bool{0: true, own: true, own + 1: false, 65534: own == 65534} {
		if got := NewServer(nil, nil).allowed(uid); got != want {
			t.Errorf("user %d: %v", uid, got)
		}
	}
}

// Who is not there, not a daemon, or goes away in the middle is told apart.
func TestCallErrors(t *testing.T) {
	t.Chdir(t.TempDir())
	file := func(words string) {
		t.Helper()
		if _, err := Call("s", Request{Command: FaultList}); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want %q", err, words)
		}
	}
	file("no such file or directory: give a daemon's --control-path")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: "s", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	for answer, want := range map[string]string{"": "closed without an answer", "{}": "closed without an answer", "hello\n": "not an answer"} {
		served := make(chan error)
		go func() {
			conn, err := l.Accept()
			if err == nil {
				_, err = io.WriteString(conn, answer)
				_, _ = bufio.NewReader(conn).ReadString('\n')
				err = errors.Join(err, conn.Close())
			}
			served <- err
		}()
		file(want)
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	file("the daemon that made it is gone")
}

// Any line has an answer of one line, and leaves the disk whole.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		`{"command":"fault-add","faults":["write,zone=5,once,after=16","latency=1ms"]}`,
		`{"command":"fault-list"}`, `{"command":"fault-clear","ids":[1,2]}`, `{"command":"fault-clear"}`,
		`{"command":"set-state","zones":"3,5-7","state":"read-only"}`, `{"command":"set-state","zones":"all","state":"writable"}`,
		`{"command":"resize"}`,
	} {
		f.Add(s)
	}
	dk := newDisk(f)
	f.Fuzz(func(t *testing.T, line string) {
		s := NewServer(dk, func(note string) {
			if strings.ContainsAny(note, "\n\x1b") {
				t.Errorf("%q is noted as %q", line, note)
			}
		})
		a := s.answer([]byte(line))
		b, err := json.Marshal(a)
		if err != nil || strings.Contains(a.Error, "\n") || len(b) > maxAnswer {
			t.Errorf("%q is answered %s, %v", line, b, err)
		}
		for i := range dk.Info().Zoned.Zones {
			if z := dk.ReportZone(i); z.Type == zone.Conventional && z.State != zone.NotWP && z.State != zone.ReadOnly && z.State != zone.Offline {
				t.Errorf("conventional zone %d is %v", i, z.State)
			}
		}
	})
}
