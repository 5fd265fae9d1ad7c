package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenFDs is the first passed descriptor (SD_LISTEN_FDS_START).
const listenFDs = 3

// Exec is the last step of a child: it executes the program args[0]. Only here the process
// id for LISTEN_PID is known.
func Exec(args []string) error {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return notFound(args[0], err)
	}
	if err := os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid())); err != nil {
		return err
	}
	return fmt.Errorf("start %s: %w", path, unix.Exec(path, args, os.Environ()))
}

// notFound explains why no program was found by its name.
func notFound(name string, err error) error {
	var of *exec.Error
	if errors.As(err, &of) {
		err = of.Err
	}
	var in *fs.PathError
	switch {
	case errors.As(err, &in):
		err = in.Err
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("start %q: no program of this name is in PATH: give the path of the file", name)
	}
	return fmt.Errorf("start %q: %w: give the path of a program that may be run", name, err)
}

// command is the child, started as this program with the arguments self, which make it call
// Exec. done releases what was made for the start.
func (s *store) command(self, args []string) (cmd *exec.Cmd, done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	files, done, err := s.lend()
	if err != nil {
		return nil, nil, err
	}
	// The running binary is started, even if its name is another file by now, since Exec
	// must be of this version. The program to execute is looked up by name again.
	cmd = exec.Command("/proc/self/exe", append(append([]string{}, self...), args...)...)
	cmd.Args[0] = os.Args[0]
	// A keeper that is killed ends its child: without a keeper it would hold the lock of
	// the image, and the next keeper's child could not start.
	//
	// The child has a process group of its own: the keeper passes Ctrl-C on a terminal on,
	// and a second one would end the child at once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGINT, Setpgid: true}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(plainEnviron(), "NOTIFY_SOCKET="+fdPath(listenFDs+len(files)), "FDSTORE="+strconv.Itoa(capacity))
	cmd.ExtraFiles = append(slices.Clone(files), s.addr)
	if len(files) > 0 {
		var names []string
		for _, f := range files {
			names = append(names, f.Name())
		}
		cmd.Env = append(cmd.Env, "LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	return cmd, done, nil
}

// lend makes files of all descriptors for the child, until done.
func (s *store) lend() (files []*os.File, done func(), err error) {
	files = append(files, s.fixed...)
	done = func() {
		for _, f := range files[len(s.fixed):] {
			_ = f.Close()
		}
	}
	for _, k := range s.stored {
		fd, err := unix.FcntlInt(uintptr(k.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			done()
			return nil, nil, fmt.Errorf("descriptor %s for the command: %w", k.name, err)
		}
		files = append(files, os.NewFile(uintptr(fd), k.name))
	}
	return files, done, nil
}

// plainEnviron is the environment without the variables for this process alone.
func plainEnviron() (env []string) {
	for _, e := range os.Environ() {
		switch name, _, _ := strings.Cut(e, "="); name {
		case "NOTIFY_SOCKET", "FDSTORE", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "LISTEN_PIDFDID", "WATCHDOG_PID", "WATCHDOG_USEC", "MAINPID":
		default:
			env = append(env, e)
		}
	}
	return env
}

// inherit returns the descriptors that a service manager has passed to the keeper, for the
// child.
func inherit() (files []*os.File) {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil {
		return nil
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for i := range n {
		unix.CloseOnExec(listenFDs + i)
		name := "unknown"
		if i < len(names) && names[i] != "" {
			name = names[i]
		}
		files = append(files, os.NewFile(uintptr(listenFDs+i), name))
	}
	return files
}
