package main

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// An image that is damaged, of another version, or cut short does not get better by itself:
// serve ends with the status that keeps the unit and a keeper from trying again, names the
// command that helps, and leaves the file as it is.
func TestDamagedImageStaysSo(t *testing.T) {
	t.Chdir(t.TempDir())
	const (
		super, state, faults, superCopy = 0, 4 << 10, 12 << 10, 60 << 10
		live, table, block              = 64 << 10, 68 << 10, 4 << 10
	)
	type image []byte
	// change writes text at these offsets; seal gives the block at each of these its
	// checksum, which stands field bytes into it.
	change := func(text string, at ...int) func(image) {
		return func(b image) {
			for _, off := range at {
				copy(b[off:], text)
			}
		}
	}
	seal := func(b image, field int, at ...int) {
		for _, off := range at {
			part := b[off:][:block]
			binary.LittleEndian.PutUint32(part[field:], 0)
			binary.LittleEndian.PutUint32(part[field:], crc32.Checksum(part, crc32.MakeTable(crc32.Castagnoli)))
		}
	}
	sealed := func(text string, field, into int, at ...int) func(image) {
		return func(b image) {
			for _, off := range at {
				copy(b[off+into:], text)
			}
			seal(b, field, at...)
		}
	}
	for _, tt := range []struct {
		name   string
		damage func(image)
		size   int64  // that the file is cut to; 0: it keeps its size
		holes  []int  // where a block is a hole
		want   string // in the error
	}{
		{name: "superblock", damage: change("x", super+50), want: "run 'zvhost check --repair'"},
		{name: "magic of the superblock", damage: change("x", super), want: "run 'zvhost check --repair'"},
		{name: "both superblocks", damage: change("x", super+50, superCopy+50), want: "the superblock's checksum is wrong; run 'zvhost check'"},
		{name: "magic of both superblocks", damage: change("x", super, superCopy), want: "not a zvhost image"},
		{name: "version", damage: sealed("\x02", 12, 8, super, superCopy), want: "format version 2: this zvhost knows version 1 only"},
		{name: "feature", damage: sealed("\x01", 12, 32, super, superCopy), want: "the image uses features 0x1"},
		{name: "geometry", damage: sealed("\x00\x00", 12, 56, super, superCopy), want: "the superblock is not sensible"},
		{name: "offset", damage: sealed("\x01", 12, 104, super, superCopy), want: "the offsets do not fit"},
		{name: "superblock that differs from its copy", damage: sealed("\x01", 12, 120, superCopy), want: "differ"},
		{name: "one byte short", size: -1, want: "it was cut short"},
		{name: "half a table", size: 66 << 10, want: "it was cut short"},
		{name: "half a superblock", size: 2048, want: "shorter than a superblock"},
		{name: "no live table", holes: []int{live}, want: "the zone tables are not there"},
		{name: "no committed table", holes: []int{table}, want: "the zone tables are not there"},
		{name: "both state blocks", damage: change("x", state+9, state+block+9), want: "both state blocks are damaged"},
		{name: "both copies of the committed table", damage: change("x", table+99, table+block+99), want: "both copies of block 0 of the committed zone table"},
		{name: "committed entry", damage: sealed("x", 4, 32, table, table+block), want: "committed zone table entry 0"},
		{name: "live entry", damage: change("x", live+8*3), want: "zone table entry 3"},
		{name: "faults", damage: change("x", faults+9), want: "the block of its faults is damaged"},
		{name: "words of the faults", damage: sealed("worte", 8, 32, faults), want: "the block of its faults"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const path = "d.zvh"
			_ = os.Remove(path)
			must(t, "create", path, "--size", "1M", "--zone-size", "64K", "--fault", "write,zone=5")
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if tt.damage != nil {
				tt.damage(b)
			}
			switch {
			case tt.size < 0:
				b = b[:len(b)-1]
			case tt.size > 0:
				b = b[:tt.size]
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, at := range tt.holes {
				punch(t, path, int64(at), block)
			}
			was, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, more := range [][]string{nil, {"--read-only"}, {"--cache=direct"}, {"--format=zoned"}, {"--create", "--size", "1M", "--zone-size", "64K"}} {
				if tt.name == "half a superblock" && more != nil && more[0] != "--read-only" {
					continue // no image to anybody
				}
				args := append([]string{"serve", "--socket-path=s", "--blk-file=" + path}, more...)
				status, _, stderr := zvhost(args...)
				if status != exitLasting || !strings.Contains(stderr, tt.want) || strings.Count(stderr, "\n") != 1 {
					t.Errorf("%q: status %d, want %d: %s", args, status, exitLasting, stderr)
				}
			}
			if now, err := os.ReadFile(path); err != nil || string(now) != string(was) {
				t.Errorf("the file was changed, %v", err)
			}
		})
	}
}

func punch(t *testing.T, path string, at, bytes int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, bytes); err != nil {
		t.Fatal(err)
	}
}

// Options that do not fit the disk, and sockets that do not fit the start, stay so, too.
func TestOptionsThatDoNotFitStaySo(t *testing.T) {
	t.Chdir(t.TempDir())
	image := newImage(t, "--size", "1M", "--zone-size", "64K")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--blk-file=" + image, "--socket-path=s", "--fault=write,zone=99"}, "--fault: "},
		{[]string{"--blk-file=/proc/version", "--read-only", "--socket-path=s", "--cache=direct"}, "no direct I/O: leave --cache=direct out"},
	} {
		status, _, stderr := zvhost(append([]string{"serve"}, tt.args...)...)
		if status != exitLasting || !strings.Contains(stderr, tt.want) {
			t.Errorf("%q: status %d, want %d: %s", tt.args, status, exitLasting, stderr)
		}
	}
}
