package vhostuser

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/internal/testleak"
)

func conns(t *testing.T) (a, b *Conn) {
	t.Helper()
	x, y := socketPair(t)
	a, b = NewConn(x), NewConn(y)
	t.Cleanup(func() { _ = a.Close(); _ = b.Close() })
	return a, b
}

// devnull opens n descriptors that a test can send.
func devnull(t *testing.T, n int) []int {
	t.Helper()
	fds := make([]int, n)
	for i := range fds {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		fds[i] = int(f.Fd())
	}
	return fds
}

// A message may come in pieces of any size, its descriptors with any of them,
// and the next one right behind.
func TestConnPieces(t *testing.T) {
	a, b := conns(t)
	fd := devnull(t, 1)[0]
	payload := VringState{1, 2}.Append(nil)
	wire := append(Header{SetVringNum, Version, uint32(len(payload))}.Append(nil), payload...)
	wrote := make(chan error, 1)
	go func() {
		var err error
		for size := 1; size <= len(wire); size++ {
			rest := wire
			for len(rest) > 0 {
				n := min(size, len(rest))
				var fds []int
				if len(rest) <= size { // the last piece
					fds = []int{fd}
				}
				err = errors.Join(err, a.WriteRaw(rest[:n], fds...))
				rest = rest[n:]
			}
			err = errors.Join(err, a.Write(SetOwner, Version, nil))
		}
		wrote <- err
	}()
	var m Message
	defer m.Close()
	for size := 1; size <= len(wire); size++ {
		if err := b.ReadRequest(&m); err != nil {
			t.Fatal(err)
		}
		if m.Request != SetVringNum || !bytes.Equal(m.Payload, payload) || len(m.Files) != 1 || m.Surplus != 0 {
			t.Fatalf("pieces of %d bytes: %v", size, &m)
		}
		if fl, err := unix.FcntlInt(uintptr(m.Files[0].Int()), unix.F_GETFD, 0); err != nil || fl&unix.FD_CLOEXEC == 0 {
			t.Fatalf("descriptor flags %#x, %v: not closed on exec", fl, err)
		}
		if err := b.ReadRequest(&m); err != nil {
			t.Fatal(err)
		}
		if m.Request != SetOwner || len(m.Payload) != 0 || len(m.Files) != 0 {
			t.Fatalf("behind pieces of %d bytes: %v", size, &m)
		}
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
}

// More descriptors than any message may carry are counted and closed at once,
// up to the most that the kernel lets through.
func TestConnSurplus(t *testing.T) {
	a, b := conns(t)
	fds := devnull(t, 1)
	for len(fds) < scmMaxFD {
		fds = append(fds, fds[0])
	}
	before := testleak.Take()
	if err := a.Write(SetOwner, Version, nil, fds...); err != nil {
		t.Fatal(err)
	}
	var m Message
	if err := b.ReadRequest(&m); err != nil {
		t.Fatal(err)
	}
	if len(m.Files) != MaxTableRegions || m.Surplus != scmMaxFD-MaxTableRegions {
		t.Fatalf("%d descriptors and %d too many", len(m.Files), m.Surplus)
	}
	f := m.Take(3)
	m.Close()
	if f.Int() < 0 {
		t.Fatal("a descriptor that was taken is closed with the message")
	}
	if err := f.Close(); err != nil || f.Int() != -1 || f.Close() != nil {
		t.Fatalf("closing: %v", err)
	}
	if l := before.WaitFiles(); len(l) > 0 {
		t.Fatal(l)
	}
}

// Descriptors that do not fit into this process are an error, and those that
// did are closed.
func TestConnTruncated(t *testing.T) {
	a, b := conns(t)
	fds := devnull(t, 6)
	before := testleak.Take()
	if err := a.Write(SetOwner, Version, nil, fds...); err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = uint64(highestFD(t) + 4) // room for three
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	// Lower numbers that are free must not help.
	var fill []*os.File
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		fill = append(fill, f)
	}
	for _, f := range fill[:3] {
		_ = f.Close()
	}
	var m Message
	err := b.ReadRequest(&m)
	if e := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); e != nil {
		t.Fatal(e)
	}
	for _, f := range fill {
		_ = f.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "descriptors were lost") {
		t.Fatalf("error %v", err)
	}
	if l := before.WaitFiles(); len(l) > 0 {
		t.Fatal(l)
	}
}

func highestFD(t *testing.T) int {
	t.Helper()
	fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(high)
	return high
}

func TestConnEnds(t *testing.T) {
	head := Header{SetVringNum, Version, 8}.Append(nil)
	for _, c := range []struct {
		name  string
		bytes []byte
		fds   int
		want  error
		words string
	}{
		{"nothing", nil, 0, io.EOF, "EOF"},
		{"half a header", head[:5], 0, io.ErrUnexpectedEOF, "header"},
		{"half a header with descriptors", head[:5], 2, io.ErrUnexpectedEOF, "header"},
		{"a header without its payload", head, 0, io.ErrUnexpectedEOF, "8 bytes of SET_VRING_NUM"},
		{"half a payload with descriptors", append(head[:HeaderSize:HeaderSize], 1, 2, 3), 2, io.ErrUnexpectedEOF, "8 bytes of SET_VRING_NUM"},
	} {
		a, b := conns(t)
		fds := devnull(t, c.fds)
		before := testleak.Take()
		if c.bytes != nil {
			if err := a.WriteRaw(c.bytes, fds...); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.uc.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		var m Message
		err := b.ReadRequest(&m)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: error %v", c.name, err)
		}
		if len(m.Files) != 0 {
			t.Errorf("%s: %d descriptors left", c.name, len(m.Files))
		}
		if l := before.WaitFiles(); len(l) > 0 {
			t.Errorf("%s: %v", c.name, l)
		}
	}
}

func TestConnBadHeader(t *testing.T) {
	a, b := conns(t)
	fds := devnull(t, 1)
	before := testleak.Take()
	if err := a.WriteRaw(Header{SetOwner, 2, 0}.Append(nil), fds...); err != nil {
		t.Fatal(err)
	}
	var m Message
	if err := b.ReadRequest(&m); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Fatalf("error %v", err)
	}
	if l := before.WaitFiles(); len(l) > 0 {
		t.Fatal(l)
	}
}

// Close reaches a read and a write that wait.
func TestConnCloseInterrupts(t *testing.T) {
	a, b := conns(t)
	reads, writes := make(chan error, 1), make(chan error, 1)
	go func() {
		var m Message
		reads <- a.ReadReply(&m)
	}()
	go func() {
		var err error
		for payload := make([]byte, MaxPayload); err == nil; {
			err = a.Write(SetOwner, Version, payload) // nobody reads
		}
		writes <- err
	}()
	// Give both a chance to block; either way the outcome must be the same.
	var one [1]byte
	if _, err := b.uc.Read(one[:]); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{<-reads, <-writes} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("error %v", err)
		}
	}
}

func TestNewFDPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("-1 was taken for a descriptor")
		}
	}()
	foreign.NewFD(-1)
}

func TestNilFD(t *testing.T) {
	var f *foreign.FD
	if f.Int() != -1 || f.Close() != nil {
		t.Error("a nil FD is not a closed one")
	}
}
