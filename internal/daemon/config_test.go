package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/backend/zone"
)

func goodConfig() Config {
	return Config{SocketPath: "disk.sock", SocketMode: DefaultSocketMode, FD: NoFD, BlkFile: "disk.zvh", Queues: 1}
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string // empty: good
	}{
		{"as it is", func(*Config) {}, ""},
		{"socket activation", func(c *Config) { c.SocketPath = "" }, ""},
		{"longest path", func(c *Config) { c.SocketPath = strings.Repeat("p", 106) }, ""},
		{"longest serial", func(c *Config) { c.Serial = "12345678901234567890" }, ""},
		{"nothing to serve", func(c *Config) { c.BlkFile = "" }, "--blk-file"},
		{"no storage", func(c *Config) { c.BlkFile, c.NullSectors = "", 8 }, ""},
		{"no storage and a file", func(c *Config) { c.NullSectors = 8 }, "--null"},
		{"no storage with a format", func(c *Config) { c.BlkFile, c.NullSectors, c.Format = "", 8, disk.FormatRaw }, "leave --format and --cache out"},
		{"no storage past the page cache", func(c *Config) { c.BlkFile, c.NullSectors, c.Cache = "", 8, CacheDirect }, "leave --format and --cache out"},
		{"no storage, buffered", func(c *Config) { c.BlkFile, c.NullSectors, c.Cache = "", 8, CacheBuffered }, ""},
		{"two places to listen", func(c *Config) { c.FD = 7 }, "exclude each other"},
		{"vfio-user", func(c *Config) { c.SocketPath, c.VFIOUser = "", "v" }, ""},
		{"vfio-user and vhost-user", func(c *Config) { c.VFIOUser = "v" }, "--vfio-user serves a PCI function, and --socket-path and --fd a vhost-user back-end: give one"},
		{"vfio-user and a descriptor", func(c *Config) { c.SocketPath, c.VFIOUser, c.FD = "", "v", 7 }, "give one"},
		{"vfio-user and a migration", func(c *Config) { c.SocketPath, c.VFIOUser, c.Incoming = "", "v", true }, "--incoming is for a guest that migrates"},
		{"vfio-user path too long", func(c *Config) { c.SocketPath, c.VFIOUser = "", strings.Repeat("p", 107) }, "--vfio-user: 107 bytes"},
		{"vfio-user on an abstract socket", func(c *Config) { c.SocketPath, c.VFIOUser = "", "@v" }, "--vfio-user=@v: names an abstract socket"},
		{"vfio-user and control on one path", func(c *Config) { c.SocketPath, c.VFIOUser, c.ControlPath = "", "v", "v" }, "two sockets"},
		{"control path", func(c *Config) { c.ControlPath = "disk.control" }, ""},
		{"control path too long", func(c *Config) { c.ControlPath = strings.Repeat("p", 107) }, "--control-path: 107 bytes"},
		{"the same path twice", func(c *Config) { c.ControlPath = c.SocketPath }, "two sockets"},
		{"engine", func(c *Config) { c.AIO = engine.KindNative }, ""},
		{"no such engine", func(c *Config) { c.AIO = "iouring" }, "--aio=iouring: must be io_uring, native or threads"},
		{"cache", func(c *Config) { c.Cache = "direct" }, ""},
		{"no such cache", func(c *Config) { c.Cache = "none" }, "--cache=none: must be direct or buffered"},
		{"no polling", func(c *Config) { c.PollMax = 0 }, ""},
		{"polling backwards", func(c *Config) { c.PollMax = -1 }, "--poll-max=-1ns"},
		{"polling for ever", func(c *Config) { c.PollMax = 2 * time.Second }, "--poll-max=2s: must be 0 (never) to 1s"},
		{"format", func(c *Config) { c.Format = disk.FormatRaw }, ""},
		{"no such format", func(c *Config) { c.Format = "qcow2" }, "--format=qcow2: must be raw or zoned"},
		{"a new ordinary disk", func(c *Config) { c.Create, c.Format = &zone.Geometry{}, disk.FormatRaw }, "--create and --format=raw"},
		{"stdin", func(c *Config) { c.SocketPath, c.FD = "", 0 }, "--fd=0"},
		{"negative descriptor", func(c *Config) { c.SocketPath, c.FD = "", -3 }, "--fd=-3"},
		{"no queue", func(c *Config) { c.Queues = 0 }, "--queues=0: must be 1 to 256"},
		{"too many queues", func(c *Config) { c.Queues = 257 }, "--queues=257"},
		{"path too long", func(c *Config) { c.SocketPath = strings.Repeat("p", 107) }, "at most 106"},
		{"mode", func(c *Config) { c.SocketMode = 0o1777 }, "--socket-mode"},
		{"serial too long", func(c *Config) { c.Serial = "123456789012345678901" }, "at most 20"},
		{"serial with a space", func(c *Config) { c.Serial = "A B" }, "printable"},
		{"serial with a letter outside ASCII", func(c *Config) { c.Serial = "Ä" }, "printable"},
		{"incoming", func(c *Config) { c.Incoming = true }, ""},
		{"incoming without storage", func(c *Config) { c.Incoming, c.BlkFile, c.NullSectors = true, "", 8 }, "--incoming waits for a disk"},
		{"incoming and new", func(c *Config) { c.Incoming, c.Create = true, &zone.Geometry{} }, "--incoming and --create"},
		{"create read-only", func(c *Config) { c.Create, c.ReadOnly = &zone.Geometry{}, true }, "--create and --read-only"},
	} {
		c := goodConfig()
		tt.change(&c)
		err := c.Validate()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// --create makes what is not there, takes what is there if it is the same, and
// refuses anything else without touching it.
func TestCreate(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "disk.zvh")
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	conventional, capacity, open := testGeometry, testGeometry, testGeometry
	conventional.ConventionalZones = 2
	capacity.ZoneCapacitySectors = 64
	open.MaxOpen = 3
	for _, tt := range []struct {
		name, file string
		geometry   zone.Geometry
		want       string
	}{
		{"not there yet", image, testGeometry, ""},
		{"there already", image, testGeometry, ""},
		{"another size", image, zone.Geometry{CapacitySectors: 4096, ZoneSectors: 128}, "another size (1 MiB, not 2 MiB): give another --blk-file, or leave --create"},
		{"conventional zones", image, conventional, "another number of conventional zones"},
		{"capacity", image, capacity, "another zone capacity"},
		{"limit", image, open, "another open zones limit (0, not 3)"},
		{"an ordinary file", plain, testGeometry, "ordinary disk"},
		{"no folder", filepath.Join(dir, "none", "disk.zvh"), testGeometry, "no such file"},
	} {
		c := goodConfig()
		c.BlkFile, c.Create = tt.file, &tt.geometry
		d, err := c.openDisk()
		if err == nil {
			err2 := d.Close()
			if err2 != nil {
				t.Errorf("%s: %v", tt.name, err2)
			}
		}
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestCheckFileLimit(t *testing.T) {
	if err := checkFileLimit(1); err != nil {
		t.Error(err)
	}
	if err := checkFileLimit(1 << 40); err == nil || !strings.Contains(err.Error(), "LimitNOFILE=") {
		t.Errorf("a trillion queues: %v", err)
	}
}
