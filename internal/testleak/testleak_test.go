package testleak

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestMain(m *testing.M) { Main(m) }

// A checker that never finds anything is worse than none: each kind of leak is
// made on purpose, found, and mended.
func TestFindsEachKind(t *testing.T) {
	clean := Take()
	if l := clean.Leaks(); len(l) != 0 {
		t.Fatalf("leaks where there are none: %q", l)
	}

	f, err := os.CreateTemp(t.TempDir(), "leak")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	expect(t, clean, "descriptor")

	withFile := Take()
	mem, err := syscall.Mmap(int(f.Fd()), 0, 4096, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, withFile, "shared mapping")
	if err := syscall.Munmap(mem); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}

	stop, started := make(chan struct{}), make(chan struct{})
	go func() { close(started); <-stop }()
	<-started
	expect(t, clean, "goroutine")
	close(stop)

	if l := clean.Wait(); len(l) != 0 {
		t.Fatalf("still leaks after all was mended: %q", l)
	}
	if l := clean.WaitFiles(); len(l) != 0 {
		t.Fatalf("still leaks after all was mended: %q", l)
	}
}

func expect(t *testing.T, s Snapshot, word string) {
	t.Helper()
	leaks := s.Leaks()
	if len(leaks) != 1 || !strings.Contains(leaks[0], word) {
		t.Fatalf("want one leak with %q in it, have %q", word, leaks)
	}
}
