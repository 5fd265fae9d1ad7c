package loopdev

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/zvhost/zvhost/internal/testleak"
)

func TestMain(m *testing.M) { testleak.Main(m) }

// isKilled, in the environment, makes this binary mount a loop device and wait to be killed.
const isKilled = "ZVHOST_TEST_IS_KILLED"

func TestIsKilled(t *testing.T) {
	path := os.Getenv(isKilled)
	if path == "" {
		return // called by TestNothingStays only
	}
	d := Attach(t, path, Options{})
	d.FileSystem()
	fmt.Println(d.Mount(0))
	_, _ = os.Stdin.Read(make([]byte, 1))
}

// When the process is killed that has them, the mount and the loop device go.
func TestNothingStays(t *testing.T) {
	path := File(t, 16<<20)
	cmd := exec.Command(os.Args[0], "-test.run=^TestIsKilled$")
	cmd.Env, cmd.Dir = append(os.Environ(), isKilled+"="+path), t.TempDir()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	dir, err := bufio.NewReader(out).ReadString('\n')
	dir = strings.TrimSpace(dir)
	if err != nil || !mounted(t, dir) || !attached(t, path) {
		t.Errorf("%q is no mount of a loop device over %s: %v", dir, path, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	for deadline := time.Now().Add(patience); mounted(t, dir) || attached(t, path); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("mounted %v, attached %v", mounted(t, dir), attached(t, path))
		}
	}
	if err := os.RemoveAll(dir); err != nil { // its temporary directory stays
		t.Error(err)
	}
}

func mounted(t *testing.T, dir string) bool {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(text), " "+dir+" ")
}

func attached(t *testing.T, path string) bool {
	t.Helper()
	out, err := exec.Command("losetup", "--associated", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	return len(out) > 0
}
