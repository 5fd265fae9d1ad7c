package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/zvhost/zvhost/internal/bench"
)

// storage is what lies under a disk.
type storage string

// What lies under a disk.
const (
	nothing storage = "no storage"
	tmpfs   storage = "tmpfs"
	disk    storage = "disk" // a file on the disk's file system, around the page cache
)

// A task is one thing to measure.
type task struct {
	Storage    storage  `json:"storage"`
	RW         bench.RW `json:"rw"`
	BlockBytes int      `json:"block_bytes"`
	Depth      int      `json:"iodepth"`
	Queues     int      `json:"queues"`
	Poll       bool     `json:"poll"`            // the client
	Zones      int      `json:"zones,omitempty"` // of bench.Append
}

// name identifies a task; -only searches for words of it.
func (t task) name() string {
	size := fmt.Sprintf("%dk", t.BlockBytes>>10)
	if t.BlockBytes >= 1<<20 {
		size = fmt.Sprintf("%dM", t.BlockBytes>>20)
	}
	parts := []string{string(t.Storage), string(t.RW), size, fmt.Sprintf("depth %d", t.Depth)}
	if t.Queues != 1 {
		parts = append(parts, fmt.Sprintf("%d queues", t.Queues))
	}
	switch {
	case t.Zones == 1:
		parts = append(parts, "1 zone")
	case t.Zones != 0:
		parts = append(parts, fmt.Sprintf("%d zones", t.Zones))
	}
	if t.Poll {
		parts = append(parts, "polling")
	}
	return strings.Join(parts, ", ")
}

// tasks are all that is measured of zvhost against qemu-storage-daemon.
func tasks() (all []task) {
	random := []bench.RW{bench.RandRead, bench.RandWrite}
	for _, s := range []storage{nothing, tmpfs, disk} {
		for _, poll := range []bool{false, true} {
			for _, depth := range []int{1, 32} {
				for _, rw := range random {
					all = append(all, task{Storage: s, RW: rw, BlockBytes: 4 << 10, Depth: depth, Queues: 1, Poll: poll})
				}
			}
		}
		for _, rw := range random {
			all = append(all, task{Storage: s, RW: rw, BlockBytes: 4 << 10, Depth: 32, Queues: 2})
		}
		if s == nothing {
			continue
		}
		for _, size := range []int{64 << 10, 1 << 20} {
			for _, rw := range []bench.RW{bench.Read, bench.Write} {
				all = append(all, task{Storage: s, RW: rw, BlockBytes: size, Depth: 32, Queues: 1})
			}
		}
	}
	return all
}

// appendTasks are those of zvhost alone: appends to an image, beside random
// writes to an ordinary file of the same file system.
func appendTasks() (all []task) {
	for _, s := range []storage{tmpfs, disk} {
		for _, zones := range []int{1, 4, 16} {
			all = append(all, task{Storage: s, RW: bench.Append, BlockBytes: 4 << 10, Depth: 32, Queues: 1, Zones: zones})
		}
	}
	return all
}

// bareTasks are those of a file that are held against io_uring on the file itself.
func bareTasks() (all []task) {
	for _, s := range []storage{tmpfs, disk} {
		for _, rw := range []bench.RW{bench.RandRead, bench.RandWrite} {
			all = append(all, task{Storage: s, RW: rw, BlockBytes: 4 << 10, Depth: 32, Queues: 1})
		}
	}
	return all
}

// chosen says whether a comparison's name has all words of one of the choices;
// without choices all are chosen.
func chosen(name string, choices []string) bool {
	if len(choices) == 0 {
		return true
	}
	words := func(s string) []string {
		return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' })
	}
	have := words(name)
	for _, c := range choices {
		all := true
		for _, word := range words(c) {
			all = all && slices.Contains(have, word)
		}
		if all {
			return true
		}
	}
	return false
}
