package foreign

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/silentfs"
)

// asKept has the test binary be a process that has been sent two files, has locked a third
// one, and does what it says.
const asKept = "FOREIGN_TEST_AS_KEPT"

func kept(how string) int {
	const first, second, lock = 3, 4, 5
	if err := unix.Flock(lock, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		fmt.Println(err)
		return 1
	}
	_, _ = os.Stdin.Read(make([]byte, 1)) // until the files are silent
	Close(first)
	for all, closing := Left(); all != 1 || closing > 0; all, closing = Left() {
	}
	CloseKind(second, Stuck)
	if reaper.holding != nil {
		fmt.Println(reaper.holding)
		return 1
	}
	late, err := unix.FcntlInt(lock, unix.F_DUPFD, 100) // above the two
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready", late)
	if how == "exits" {
		return 0
	}
	select {}
}

// holders are the processes that hold for process pid.
func holders(pid int) (pids []string) {
	threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, th := range threads {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, th.Name()))
		pids = append(pids, strings.Fields(string(children))...)
	}
	return pids
}

// A process that has been sent files of a silent file system ends all the same, and lets go
// of everything else: if it exits, and if it is killed.
func TestEnd(t *testing.T) {
	for _, how := range []string{"exits", "is killed"} {
		t.Run(how, func(t *testing.T) {
			f := silentfs.Mount(t)
			var files []*os.File
			for range 2 {
				files = append(files, os.NewFile(uintptr(f.Open(t)), "silent"))
			}
			path := t.TempDir() + "/lock"
			lock, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), asKept+"="+how)
			cmd.ExtraFiles = append(files, lock)
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			start, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if err := lock.Close(); err != nil {
				t.Fatal(err)
			}
			f.Silence() // not before: exec closes this process's descriptors of it
			_ = start.Close()
			lines := bufio.NewReader(out)
			if line, err := lines.ReadString('\n'); err != nil || !strings.HasPrefix(line, "ready") {
				t.Errorf("it says %q, %v", line, err)
			}
			var pids []string
			if how == "is killed" {
				pids = holders(cmd.Process.Pid)
				if len(pids) != 1 {
					t.Errorf("its children are %q", pids)
				}
				_ = cmd.Process.Kill()
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				if _, err := lines.ReadByte(); err == nil { // the holder had its output, too
					t.Error("it says more")
				}
				_ = cmd.Wait()
			}()
			select {
			case <-ended:
			case <-time.After(time.Minute):
				f.Unmount()
				<-ended
				t.Fatal("it has not ended within a minute")
			}
			again, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "the lock is free", func() bool { return unix.Flock(int(again.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil })
			_ = again.Close()
			eventually(t, "the holder waits for the file system", func() bool { return f.Waiting() > 0 })
			f.Unmount()
			for _, pid := range pids {
				eventually(t, "the holder has ended", func() bool {
					stat, _ := os.ReadFile("/proc/" + pid + "/stat")
					return !strings.Contains(string(stat), "("+holderName+") ") || strings.Contains(string(stat), ") Z ")
				})
			}
			for _, file := range files {
				_ = file.Close()
			}
		})
	}
}
