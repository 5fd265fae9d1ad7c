package silentfs

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// asHolder has a test binary be one of the two processes that hold a pipe: a server, whose
// file system is in the folder that it names, or a writer.
const (
	asServer = "SILENTFS_SERVER"
	asWriter = "SILENTFS_WRITER"
)

func init() {
	var err error
	switch dir := os.Getenv(asServer); {
	case dir != "":
		err = serveHeld(dir)
	case os.Getenv(asWriter) != "":
		err = writeHeld()
	case os.Getenv(asApart) != "":
		err = serveApart(os.Getenv(asApart))
	default:
		return
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// HoldPipe has another process hold the mutex of a pipe, so that whoever reads from it,
// writes to it, opens it or closes it for the last time waits where no signal reaches
// (__pipe_lock). w is its end for writing, of which the other processes have no other
// descriptor than their own. release ends that; it is called at the end of the test in any
// case, and when the test's process ends.
//
// The holder writes into the pipe from a page of a silent file system (anon_pipe_write).
// The file system's server is yet another process: one that waits for itself would not end.
func HoldPipe(t testing.TB, w int) (release func()) {
	t.Helper()
	own, err := unix.FcntlInt(uintptr(w), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	pipe := os.NewFile(uintptr(own), "pipe")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asServer+"="+t.TempDir())
	cmd.ExtraFiles = []*os.File{pipe}
	cmd.Stderr = os.Stderr
	in, out, err := start(cmd)
	_ = pipe.Close()
	if err != nil {
		t.Fatal(err)
	}
	released := false
	release = func() {
		if !released {
			released = true
			_ = in.Close()
			_, _ = io.Copy(io.Discard, out)
			_ = cmd.Wait()
		}
	}
	t.Cleanup(release)
	if line, err := out.ReadString('\n'); line != "held\n" {
		t.Fatalf("the process that is to hold a pipe says %q, %v", line, err)
	}
	return release
}

func start(cmd *exec.Cmd) (io.WriteCloser, *bufio.Reader, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	return in, bufio.NewReader(out), cmd.Start()
}

const pipeFD, fileFD = 3, 4

func serveHeld(dir string) error {
	unix.CloseOnExec(pipeFD)
	f, err := mount(dir, nil)
	if err != nil {
		return err
	}
	fd, err := unix.Open(f.Path(), unix.O_RDWR|unix.O_CLOEXEC, 0)
	// It lives on for as long as somebody has its file.
	_ = unix.Unmount(dir, unix.MNT_DETACH)
	if err != nil {
		return err
	}
	pipe, file := os.NewFile(pipeFD, "pipe"), os.NewFile(uintptr(fd), "file")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{asWriter + "=1"}
	cmd.ExtraFiles = []*os.File{pipe, file}
	cmd.Stderr = os.Stderr
	in, out, err := start(cmd)
	if err != nil {
		return err
	}
	if line, err := out.ReadString('\n'); line != "up\n" {
		return fmt.Errorf("the writer says %q, %v", line, err)
	}
	_ = pipe.Close()
	_ = file.Close()
	f.Silence()
	if _, err := in.Write([]byte("x")); err != nil {
		return err
	}
	for f.Waiting() == 0 { // what it writes has to be read first
		_, _ = unix.Poll(nil, 1)
	}
	fmt.Println("held")
	_, _ = io.Copy(io.Discard, os.Stdin)
	f.Unmount()
	return cmd.Wait()
}

func writeHeld() error {
	mem, err := unix.Mmap(fileFD, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	if err := unix.Close(fileFD); err != nil {
		return err
	}
	fmt.Println("up")
	_, _ = os.Stdin.Read(make([]byte, 1))
	_, _ = unix.Write(pipeFD, mem) // it fails when the file system is gone
	return nil
}
