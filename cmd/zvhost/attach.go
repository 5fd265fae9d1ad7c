package main

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vduse"
)

// attachPause is how long attach and detach wait before they look again.
const attachPause = 50 * time.Millisecond

// daemonPatience is how long a daemon may take to remove what is left of its device.
const daemonPatience = 10 * time.Second

// attachment are the flags of attach and detach.
type attachment struct {
	name, dir string
	queues    int
	readOnly  bool
}

func (o *attachment) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.name, "name", "", "`NAME` of the VDUSE device (default: made of the file's name)")
	cmd.Flags().StringVar(&o.dir, "state", vduse.DefaultStateDir, "`DIRECTORY` in memory for the state and the log")
}

func newAttach() *cobra.Command {
	o := new(attachment)
	cmd := &cobra.Command{
		Use:   "attach FILE",
		Short: "Give this host a disk, without a virtual machine",
		Long: `Serves FILE to this host's kernel over VDUSE, in the background, and prints the block device
that the kernel makes of it. It takes root, and the modules vduse, virtio_vdpa and virtio_blk.

The daemon runs under a keeper, which starts it again if it dies: a mounted file system does
not notice. Its log is NAME.log in the directory of --state. If FILE is attached already,
attach prints its block device. For more options run 'zvhost serve --vduse NAME' yourself.`,
		Example: `  zvhost attach disk.zvh
  zvhost attach disk.zvh --queues 4 --name data`,
		Args: oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
			defer stop()
			disk, err := o.attach(ctx, args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), disk)
			return err
		},
	}
	o.add(cmd)
	cmd.Flags().IntVar(&o.queues, "queues", 1, "number of request queues, `N`")
	cmd.Flags().BoolVar(&o.readOnly, "read-only", false, "attach it read-only")
	return cmd
}

func newDetach() *cobra.Command {
	o := new(attachment)
	cmd := &cobra.Command{
		Use:   "detach FILE|DEVICE",
		Short: "Take a disk from this host again",
		Long: `Removes the block device that attach (or serve --vduse) has given this host, and ends its
daemon once it has finished what is in flight. Give the file or the block device. A device
that is in use, such as by a mounted file system, is not removed.`,
		Example: `  zvhost detach disk.zvh
  zvhost detach /dev/vda`,
		Args: oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
			defer stop()
			return o.detach(ctx, args[0])
		},
	}
	o.add(cmd)
	return cmd
}

// deviceName is the name of the device for a file: its own with a number of its path, since two
// files may have one name.
func (o *attachment) deviceName(file string) (string, error) {
	if o.name != "" {
		if err := vduse.CheckName(o.name); err != nil {
			return "", &usageError{fmt.Errorf("--name: %w", err)}
		}
		return o.name, nil
	}
	path, err := filepath.Abs(file)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return "", err
	}
	base := strings.Map(func(r rune) rune {
		if r < 0x80 && vduse.CheckName(string(r)) == nil || r == '.' {
			return r
		}
		return '_'
	}, filepath.Base(path))
	return fmt.Sprintf("%.32s-%08x", base, crc32.ChecksumIEEE([]byte(path))), nil
}

// attach starts a daemon for file, and returns its block device.
func (o *attachment) attach(ctx context.Context, file string) (string, error) {
	name, err := o.deviceName(file)
	if err != nil {
		return "", err
	}
	if disk := vduse.BlockDevice(name); disk != "" && served(name) {
		return disk, nil
	}
	path, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return "", fmt.Errorf("the directory for the state: %w", err)
	}
	logPath := filepath.Join(o.dir, name+".log")
	log, err := os.OpenFile(logPath, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_APPEND, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { _ = log.Close() }()
	args := []string{"keeper", "--", self, "serve", "--vduse", name, "--vduse-state", o.dir, "--blk-file", path, "--queues", strconv.Itoa(o.queues)}
	if o.readOnly {
		args = append(args, "--read-only")
	}
	cmd := exec.Command(self, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, "/"
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		if disk := vduse.BlockDevice(name); disk != "" && served(name) {
			return disk, nil
		}
		select {
		case err := <-ended:
			return "", attachError(logPath, err)
		case <-ctx.Done():
			_ = cmd.Process.Signal(unix.SIGTERM)
			<-ended
			return "", fmt.Errorf("stopped before there was a block device; the log is %s", logPath)
		case <-time.After(attachPause):
		}
	}
}

// attachError is why the daemon has ended, from the last line of its log.
func attachError(logPath string, err error) error {
	b, rerr := os.ReadFile(logPath)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	last := strings.TrimPrefix(lines[len(lines)-1], "zvhost: ")
	if rerr != nil || last == "" {
		return fmt.Errorf("the daemon has ended: %w", err)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		// As the daemon's own: it has printed nothing here.
		return &endedError{errors.New(last), exit.ExitCode()}
	}
	return errors.New(last)
}

// An endedError is the end of the daemon that attach has started.
type endedError struct {
	error
	status int
}

// served says whether a process has the device open.
func served(name string) bool {
	node, err := vduse.Open(name)
	if err == nil {
		_ = node.Close()
	}
	return errors.Is(err, unix.EBUSY)
}

// detach removes the device of a file or block device.
func (o *attachment) detach(ctx context.Context, what string) error {
	name := vduse.NameOf(what)
	if name == "" {
		var err error
		if name, err = o.deviceName(what); err != nil {
			return err
		}
	}
	if disk := vduse.BlockDevice(name); disk != "" {
		fd, err := unix.Open(disk, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("%s is in use: unmount what is on it first", disk)
		}
		if err == nil {
			_ = unix.Close(fd)
		}
	}
	node, err := vduse.Open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s is not attached: there is no VDUSE device %s", what, name)
	case err == nil: // nobody serves it
		go vduse.Dismiss(node)
		err = vduse.Detach(name)
		return errors.Join(err, node.Close(), vduse.Destroy(name), vduse.RemoveStore(o.dir, name))
	case !errors.Is(err, unix.EBUSY):
		return err
	}
	if err := vduse.Detach(name); err != nil {
		return err
	}
	for begun := time.Now(); ; { // its daemon removes the rest
		if _, err := os.Stat(filepath.Join(vduse.Dir, name)); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if time.Since(begun) > daemonPatience && !served(name) { // it has died before that
			return errors.Join(vduse.Destroy(name), vduse.RemoveStore(o.dir, name))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the block device is gone; the daemon of %s has not ended yet", name)
		case <-time.After(attachPause):
		}
	}
}
