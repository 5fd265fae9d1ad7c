package device

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/zvhost/zvhost/vhostuser"
	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// What a dead front-end has asked for, and has not begun, is not carried out: the next one
// does not wait for reads that nobody wants. It stays in flight in the record, so whoever
// comes with that has it carried out, once.
func TestReadsOfADeadFrontEndAreDropped(t *testing.T) {
	const reads = 6
	for name, o := range map[string]frontend.Options{
		"split":            {Inflight: true},
		"packed":           {Inflight: true, Packed: true},
		"without a record": {},
	} {
		t.Run(name, func(t *testing.T) {
			r := plainRig(t, 1)
			gate := r.newGate()
			g := r.connect(o)
			g.want("write", driver.StatusOK, g.Queue(0).Write(pattern(reads*4096, 7), 0))
			gate.shut.Store(true)
			var sent []*frontend.Request
			for i := range reads {
				sent = append(sent, send(g, driver.TypeIn, uint64(i)*8, 4096))
				clear(sent[i].Data)
				gate.wait(int64(i + 1))
			}
			r.session.Supersede()
			gate.open()
			if err := <-g.ended; err != nil {
				t.Fatal(err)
			}
			for i, req := range sent {
				if !bytes.Equal(req.Data, make([]byte, 4096)) {
					t.Errorf("read %d was carried out", i)
				}
			}
			if o.Inflight {
				client, ended := r.dial()
				if err := g.Reconnect(client); err != nil {
					t.Fatal(err)
				}
				g.ended = ended
				done := make([]*frontend.Request, reads)
				for n := 0; n < reads; {
					k, err := g.Queue(0).Wait(done[n:])
					if err != nil {
						t.Fatalf("%d are done, %v\n%s", n, err, r.book)
					}
					n += k
				}
				for i, req := range sent {
					if req.Status != driver.StatusOK || !bytes.Equal(req.Data, pattern(reads*4096, 7)[i*4096:][:4096]) {
						t.Errorf("read %d: status %d", i, req.Status)
					}
				}
				g.leave()
			} else if err := g.Abandon(); err != nil {
				t.Fatal(err)
			}
			r.nextIsServed()
		})
	}
}

// The front-end is killed: its connection ends, and it is seen to be dead while the session
// waits for what it had in flight.
func TestReadsOfAKilledFrontEndAreDropped(t *testing.T) {
	r := plainRig(t, 1)
	gate := r.newGate()
	far, near := socketPair(t)
	held, err := near.File() // the connection once more, for another process
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Close() }()
	s := vhostuser.NewSession(far, r.dev, vhostuser.Options{})
	ended := make(chan error, 1)
	go func() { ended <- s.Run() }()
	client, err := frontend.New(near)
	if err != nil {
		t.Fatal(err)
	}
	d, err := frontend.Open(client, frontend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{Disk: d, r: r, ended: ended}
	g.want("write", driver.StatusOK, g.Queue(0).Write(pattern(4096, 7), 0))
	gate.shut.Store(true)
	read := send(g, driver.TypeIn, 0, 4096)
	clear(read.Data)
	gate.wait(1)
	speakAndDie(t, held) // the one that has spoken last, and is dead
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	for !r.dev.abandoned.Load() {
		time.Sleep(time.Millisecond)
	}
	gate.open()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !bytes.Equal(read.Data, make([]byte, 4096)) {
		t.Error("the read was carried out")
	}
	_ = g.Abandon() // its connection is closed already
	r.nextIsServed()
}

// asSpeaker makes the test binary be a front-end in a process of its own, which sends one
// message over its descriptor 3.
const asSpeaker = "DEVICE_TEST_AS_SPEAKER"

func speak() error {
	f := os.NewFile(3, "connection")
	conn, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return err
	}
	c, err := frontend.New(conn.(*net.UnixConn))
	if err == nil {
		_, err = c.Features()
	}
	return err
}

// speakAndDie has another process send a message over f, and end.
func speakAndDie(t *testing.T, f *os.File) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), asSpeaker+"=1")
	cmd.ExtraFiles = []*os.File{f}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the front-end's process: %v\n%s", err, out)
	}
}
