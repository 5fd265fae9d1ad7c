package rig

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// Run runs a program that ends by itself, and returns what it printed; what it said of
// errors is in the error.
func Run(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s%s", name, strings.Join(args, " "), err, out, errs.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// Sparse makes a file of so many bytes that takes no room.
func Sparse(path string, bytes int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Truncate(bytes)
}

// Undo collects what has to be taken down again, the last first.
type Undo []func() error

// Add adds what takes something down.
func (u *Undo) Add(f func() error) { *u = append(*u, f) }

// Run takes everything down, and returns the first thing that failed.
func (u *Undo) Run() (err error) {
	for n := len(*u) - 1; n >= 0; n-- {
		if e := (*u)[n](); err == nil {
			err = e
		}
	}
	*u = nil
	return err
}

// Loop makes a block device of a file.
func (u *Undo) Loop(path string) (device string, err error) {
	if device, err = Run("losetup", "--find", "--show", path); err == nil {
		u.Add(func() error { _, err := Run("losetup", "--detach", device); return err })
	}
	return device, err
}

// Mount mounts device at dir, which is made.
func (u *Undo) Mount(device, dir, fs, options string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(device, dir, fs, 0, options); err != nil {
		return fmt.Errorf("mount %s as %s: %w", device, fs, err)
	}
	u.Add(func() error {
		// The kernel may close the files of a process that was killed after it has
		// reported the end of the process (io_uring does so).
		err := Await(fmt.Sprintf("files on %s to be closed", dir), func() (bool, error) {
			err := unix.Unmount(dir, 0)
			if errors.Is(err, unix.EBUSY) {
				return false, nil
			}
			return err == nil, err
		})
		if err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
		return nil
	})
	return nil
}
