package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/bench"
)

// files are what the disks lie in.
type files struct {
	dir    string // sockets, and what lies on the disk
	memory string // what lies on tmpfs
	fs     string // of dir
	holes  bool   // the ordinary file is the one of holes
}

const (
	fileBytes  = 1 << 30
	imageBytes = "2G"
	zoneBytes  = "64M" // 16 zones of them are as large as the file
)

// newFiles makes folders of its own below the two given.
func newFiles(diskDir, memoryDir string) (f *files, err error) {
	f = &files{}
	if err := os.MkdirAll(diskDir, 0o755); err != nil {
		return nil, err
	}
	if f.dir, err = os.MkdirTemp(diskDir, "compare-"); err != nil {
		return nil, err
	}
	if f.dir, err = filepath.Abs(f.dir); err != nil {
		return nil, err
	}
	if f.fs, err = fileSystem(f.dir); err != nil {
		return f, err
	}
	f.memory, err = os.MkdirTemp(memoryDir, "zvhost-compare-")
	if err != nil {
		return f, err
	}
	if fs, err := fileSystem(f.memory); err != nil || fs != "tmpfs" {
		return f, errors.Join(err, fmt.Errorf("%s is on %s, not on tmpfs: give a folder that is with -tmpfs", f.memory, fs))
	}
	if f.fs == "tmpfs" {
		return f, fmt.Errorf("%s is on tmpfs: give a folder on a disk with -disk", f.dir)
	}
	return f, nil
}

// remove removes everything.
func (f *files) remove() error {
	var err error
	for _, dir := range []string{f.dir, f.memory} {
		if dir != "" {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}
	return err
}

// of is the file of a task, "" when it has none.
func (f *files) of(t task) string {
	dir := f.memory
	switch t.Storage {
	case nothing:
		return ""
	case disk:
		dir = f.dir
	}
	if t.RW == bench.Append {
		return filepath.Join(dir, "image.zvh")
	}
	if f.holes {
		return filepath.Join(dir, "holes")
	}
	return filepath.Join(dir, "ordinary")
}

// prepare makes the file of a task, if it is not there yet: an ordinary one full
// of noise, so that every block of it is there, and an image without any.
func (f *files) prepare(zvhost string, t task) error {
	path := f.of(t)
	if path == "" {
		return nil
	}
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if t.RW == bench.Append {
		out, err := exec.Command(zvhost, "create", path, "--size", imageBytes, "--zone-size", zoneBytes).CombinedOutput()
		if err != nil {
			return fmt.Errorf("zvhost create: %w: %s", err, out)
		}
		return nil
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	state := uint64(1)
	for i := range block {
		state = state*6364136223846793005 + 1442695040888963407
		block[i] = byte(state >> 56)
	}
	for at := 0; at < fileBytes && err == nil; at += len(block) {
		_, err = file.Write(block)
	}
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		// Whoever uses the page cache begins with an empty one.
		err = unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	return errors.Join(err, file.Close())
}

// fileSystem names the file system of a path (statfs(2)).
func fileSystem(path string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return "", fmt.Errorf("file system of %s: %w", path, err)
	}
	switch int64(st.Type) {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4", nil
	case unix.XFS_SUPER_MAGIC:
		return "XFS", nil
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs", nil
	case unix.TMPFS_MAGIC:
		return "tmpfs", nil
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs", nil
	}
	return fmt.Sprintf("file system %#x", st.Type), nil
}
