package silentfs

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// asApart has a test binary serve a file system in the folder that it names, for Apart.
const asApart = "SILENTFS_APART"

// An Apart is an FS that another process serves: a test whose process waits for it can
// still be ended.
type Apart struct {
	dir string
	in  io.WriteCloser
	out *bufio.Reader
	cmd *exec.Cmd
}

// MountApart mounts one, until the end of the test or of its process.
func MountApart(t testing.TB) *Apart {
	t.Helper()
	a := &Apart{dir: t.TempDir(), cmd: exec.Command("/proc/self/exe")}
	a.cmd.Env = append(os.Environ(), asApart+"="+a.dir)
	a.cmd.Stderr = os.Stderr
	var err error
	if a.in, a.out, err = start(a.cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Unmount)
	if line, err := a.out.ReadString('\n'); line != "mounted\n" {
		t.Fatalf("the process that is to serve a file system says %q, %v", line, err)
	}
	return a
}

// Path is its file's.
func (a *Apart) Path() string { return a.dir + "/file" }

// Silence ends all answers.
func (a *Apart) Silence(t testing.TB) {
	t.Helper()
	a.ask(t, "silence")
}

// Waiting is how many requests of this process have come since Silence. There may be others
// on the machine, which look at what this process has open.
func (a *Apart) Waiting(t testing.TB) (n int) {
	t.Helper()
	for _, thread := range strings.Fields(a.ask(t, "waiting")) {
		if _, err := os.Stat("/proc/self/task/" + thread); err == nil {
			n++
		}
	}
	return n
}

func (a *Apart) ask(t testing.TB, what string) (answer string) {
	t.Helper()
	_, err := fmt.Fprintln(a.in, what)
	if err == nil {
		answer, err = a.out.ReadString('\n')
	}
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// Unmount takes the file system away: whoever waits for it gets an error. A second call
// does nothing.
func (a *Apart) Unmount() {
	if a.in.Close() == nil {
		_, _ = io.Copy(io.Discard, a.out)
		_ = a.cmd.Wait()
	}
}

func serveApart(dir string) error {
	var mu sync.Mutex
	var threads []string
	f, err := mount(dir, func(thread uint32) {
		mu.Lock()
		defer mu.Unlock()
		threads = append(threads, fmt.Sprint(thread))
	})
	if err != nil {
		return err
	}
	defer f.Unmount()
	go endWith(os.Getppid())
	fmt.Println("mounted")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if in.Text() == "silence" {
			f.Silence()
		}
		mu.Lock()
		fmt.Println(strings.Join(threads, " "))
		mu.Unlock()
	}
	return nil
}

// endWith ends this process when another one is killed. One with a thread that waits for
// this process keeps its descriptors until then, the other end of standard input as well.
func endWith(pid int) {
	for {
		var state string
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if at := strings.LastIndex(string(text), ")"); err == nil && at >= 0 {
			_, err = fmt.Sscan(string(text[at+1:]), &state)
		}
		if err != nil || state == "Z" || state == "X" {
			os.Exit(1)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Holding starts a process that has the file open until release, which is called at the
// end of the test in any case.
func (a *Apart) Holding(t testing.TB) (release func()) {
	t.Helper()
	f, err := os.OpenFile(a.Path(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cat")
	cmd.ExtraFiles = []*os.File{f}
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	_ = f.Close()
	if err != nil {
		t.Fatal(err)
	}
	release = func() {
		if in.Close() == nil {
			a.Unmount() // whoever closes its file waits for it
			_ = cmd.Wait()
		}
	}
	t.Cleanup(release)
	return release
}
