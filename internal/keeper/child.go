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

// listenFDs is where handed over descriptors begin (SD_LISTEN_FDS_START).
const listenFDs = 3

// Exec is the last step of a child: it becomes the program args[0]. Only here is
// the process id known that LISTEN_PID has to name.
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

// notFound says why no program was found by its name.
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

// command is the child, as a step of this program that ends in Exec. self are
// the arguments that make this program call it; done gives back what was made for
// its start.
func (s *store) command(self, args []string) (cmd *exec.Cmd, done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	files, done, err := s.lend()
	if err != nil {
		return nil, nil, err
	}
	// What is running is started, even if another file has its name by now: the
	// step is this version's. The program that it becomes is looked up anew.
	cmd = exec.Command("/proc/self/exe", append(append([]string{}, self...), args...)...)
	cmd.Args[0] = os.Args[0]
	// A keeper that is killed takes the child along: one that nobody keeps would hold
	// the image against the keeper that is started next.
	//
	// It has a process group of its own: Ctrl-C on a terminal is the keeper's to pass on,
	// and a second one to the child would be to end at once.
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

// lend makes files of all that the child is to have, until done.
func (s *store) lend() (files []*os.File, done func(), err error) {
	files = append(files, s.fixed...)
	done = func() {
		for _, f := range files[len(s.fixed):] {
			_ = f.Close()
		}
	}
	for _, k := range s.kept {
		fd, err := unix.FcntlInt(uintptr(k.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			done()
			return nil, nil, fmt.Errorf("descriptor %s for the command: %w", k.name, err)
		}
		files = append(files, os.NewFile(uintptr(fd), k.name))
	}
	return files, done, nil
}

// plainEnviron is the environment without what belongs to this process alone.
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

// inherit takes what a service manager has handed to the keeper: it is the
// child's.
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
