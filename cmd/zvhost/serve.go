package main

import (
	"runtime/debug"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/zvhost/zvhost/internal/daemon"
	"github.com/zvhost/zvhost/internal/logging"
)

// serveOptions are the flags of serve. The root command has the conventional ones.
type serveOptions struct {
	config   daemon.Config
	mode     modeFlag
	create   bool
	geometry geometryFlags
	faults   faultFlag
	window   windowFlag
	null     bool
	nullSize sizeFlag
	logLevel string
	debug    bool
}

func newServeOptions() *serveOptions {
	return &serveOptions{
		config: daemon.Config{FD: daemon.NoFD, Queues: 1, PollMax: daemon.DefaultPollMax},
		mode:   modeFlag{daemon.DefaultSocketMode},
		// A plausible size of a disk.
		nullSize: sizeFlag{bytes: 64 << 30, text: "64G"},
	}
}

// addConventional adds what management software may pass (vhost-user.rst,
// "Backend program conventions").
func (o *serveOptions) addConventional(fs *pflag.FlagSet) {
	fs.SortFlags = false
	fs.StringVar(&o.config.SocketPath, "socket-path", "", "listen on this UNIX `PATH`")
	fs.IntVar(&o.config.FD, "fd", daemon.NoFD, "use the inherited socket `N`, listening or connected, instead of --socket-path")
	fs.StringVar(&o.config.BlkFile, "blk-file", "", "the image, `FILE` or block device to serve")
	fs.BoolVar(&o.config.ReadOnly, "read-only", false, "serve it read-only")
	fs.StringVar(&o.logLevel, "log-level", "info", "log lines of this `LEVEL` and above: error, warning, info or debug")
	fs.BoolVar(&o.debug, "debug", false, "log every message of the front-end in words (implies --log-level=debug)")
	fs.Lookup("fd").DefValue = "0" // pflag does not print a zero default
}

func newServe() *cobra.Command {
	opts := newServeOptions()
	cmd := &cobra.Command{
		Use:   "serve --socket-path PATH --blk-file FILE",
		Short: "Serve a disk to a virtual machine",
		Long: `Serves a disk over a vhost-user or vfio-user socket until SIGTERM. The type of FILE decides the
type of the disk: a zoned image, or a zoned drive of the host (SMR, ZNS, null_blk),
becomes a host-managed zoned disk; any other file or block device becomes an ordinary
disk with discard and write-zeroes. With --zones several daemons can share a drive.

zvhost serves one front-end at a time. Another one that connects meanwhile is accepted
if the first disconnects within three seconds, and refused otherwise; it is accepted at
once if the process of the first is dead. When a front-end disconnects, the next may
connect; with a connected socket in --fd, zvhost ends then.

The bytes after the last whole block of an ordinary disk's file are not served and not
changed; the log says how many.

A guest can write the superblock of a zoned image into its ordinary disk, so that the
file is served as an image the next time; --format raw serves it as an ordinary disk,
whatever it contains.

--block-size is the block size of an ordinary disk, whatever its file system or device
prefers: 512 (the default for files) or 4096; a device's default is its own block size.
It never changes by itself. An image or a zoned drive has a block size of its own.

--aio takes QEMU's names; native is linux-aio, which needs --cache=direct and is the
default for zoned drives.

For a live migration, --incoming starts the destination daemon while the source daemon
still has the disk open. It reads FILE without its lock, and acquires the disk when the
guest's queues start here; it waits for at most 10 s, and refuses the queues then. A
daemon releases the disk when its front-end has stopped all queues of a guest whose
writes are logged, and acquires it again if the guest stays.

With --vduse the front-end is this host's own kernel, which makes a block device of the
disk; 'zvhost attach' does it in the background. The device stays when the daemon ends, and
the next one with the same NAME continues; 'zvhost detach' removes it.

With --vfio-user the front-end gets a virtio-blk PCI function with MSI-X, which needs no
support for zones of its own: QEMU's vfio-user-pci, cloud-hypervisor's --user-device. A
restart of the daemon, also under 'zvhost keeper', ends such a front-end's connection.

zvhost replaces a socket file on which no process listens. Under systemd socket
activation it uses the socket that systemd passes.`,
		Example: `  zvhost serve --socket-path /run/vm1.sock --blk-file disk.zvh
  zvhost serve --socket-path /run/vm1.sock --blk-file disk.zvh --queues 4 --serial VM1-DATA
  zvhost serve --vfio-user /run/vm1.sock --blk-file disk.zvh --queues 4
  zvhost serve --socket-path /run/vm1.sock --blk-file /dev/nvme0n2 --zones 16-79
  zvhost serve --vduse data --blk-file disk.zvh --queues 4
  zvhost serve --socket-path /run/vm1-incoming.sock --blk-file /mnt/shared/vm1.raw --incoming
  zvhost serve --socket-path /run/bench.sock --null --null-size 64G
  zvhost serve --socket-path /run/vm1.sock --blk-file disk.zvh --create --size 8G --zone-size 64M
  zvhost serve --socket-path /run/vm1.sock --blk-file disk.zvh --control-path /run/vm1.control --fault read,zone=5`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return opts.serve(cmd) },
	}
	opts.add(cmd.Flags())
	return cmd
}

// add adds the flags of serve. Their defaults are those of newServeOptions, since the root
// command has the options without these flags.
func (o *serveOptions) add(fs *pflag.FlagSet) {
	o.addConventional(fs)
	fs.StringVar(&o.config.VFIOUser, "vfio-user", "", "instead of --socket-path: listen on this UNIX `PATH` for a vfio-user client")
	fs.IntVar(&o.config.Queues, "queues", 1, "offer `N` request queues; configure the front-end with as many")
	fs.BoolVar(&o.config.SplitRings, "split-rings", false, "do not offer packed rings")
	fs.StringVar(&o.config.Serial, "serial", "", "serial number that the guest sees, an `ID` of at most 20 characters")
	fs.StringVar((*string)(&o.config.Format), "format", "", "required `FORMAT` of FILE: raw or zoned (default: detect)")
	fs.StringVar((*string)(&o.config.AIO), "aio", "", "I/O `ENGINE`: io_uring (default if the kernel has it), native or threads")
	fs.DurationVar(&o.config.PollMax, "poll-max", daemon.DefaultPollMax, "look for more work for this `TIME` before sleeping; 0: never")
	fs.StringVar((*string)(&o.config.Cache), "cache", "", "page cache `MODE`: buffered, or direct (the default for zoned drives)")
	fs.Var(&o.window, "zones", "serve only these zones of a zoned device, numbered from 0")
	fs.BoolVar(&o.config.Incoming, "incoming", false, "acquire the disk when queues start: a guest migrates here from another zvhost")
	fs.StringVar(&o.config.VDUSE, "vduse", "", "instead of --socket-path: serve this host's kernel, as the VDUSE device `NAME`")
	fs.StringVar(&o.config.VDUSEState, "vduse-state", "", "`DIR` in memory for its state (default /run/zvhost/vduse)")
	fs.Var(&o.mode, "socket-mode", "permissions of the socket; write permission allows to connect")
	fs.StringVar(&o.config.SocketGroup, "socket-group", "", "`GROUP` of the socket (default: the daemon's)")
	fs.StringVar(&o.config.ControlPath, "control-path", "", "accept zvhost fault, zone and resize on this UNIX `PATH`, from root and its own user")
	fs.Var(&o.faults, "fault", "inject a fault in this run (see zvhost fault add); may be repeated")
	fs.BoolVar(&o.null, "null", false, "instead of --blk-file: a disk without storage, to measure everything else")
	fs.Var(&o.nullSize, "null-size", "size of that disk")
	fs.BoolVar(&o.create, "create", false, "create a zoned image if FILE does not exist, with the options below")
	o.geometry.add(fs)
}

// serve builds the configuration from the flags and runs the daemon.
func (o *serveOptions) serve(cmd *cobra.Command) error {
	// Go ends a panic with status 2, which is that of a wrong command line, and the unit
	// does not restart after that (RestartPreventExitStatus=). So a panic raises SIGABRT.
	debug.SetTraceback("crash")
	o.config.SocketMode = o.mode.mode
	o.config.Faults = o.faults.list
	o.config.Window = o.window.window
	o.config.Trace = o.debug
	if o.debug {
		o.logLevel = "debug"
	}
	if err := o.setNull(cmd); err != nil {
		return err
	}
	blockSize := &o.geometry.blockSize
	if blockSize.bytes != uint64(uint32(blockSize.bytes)) {
		return usagef("--block-size %s is too large: it must be 512 or 4096", blockSize.text)
	}
	o.config.BlockSize = uint32(blockSize.bytes)
	if o.create {
		geo, err := o.geometry.geometry()
		if err != nil {
			return err
		}
		o.config.Create = &geo
	} else {
		for _, name := range geometryNames {
			if f := cmd.Flags().Lookup(name); f != nil && f.Changed && name != "block-size" {
				return usagef("--%s describes a new image: add --create, or leave it out", name)
			}
		}
	}
	for _, name := range []string{"socket-mode", "socket-group"} {
		if f := cmd.Flags().Lookup(name); f != nil && f.Changed && o.config.SocketPath == "" && o.config.VFIOUser == "" {
			return usagef("--%s applies to a socket that zvhost creates: add --socket-path, or leave it out and set the permissions where the socket is created", name)
		}
	}
	if err := o.config.Validate(); err != nil {
		return &usageError{err}
	}
	log, err := logging.New(cmd.ErrOrStderr(), o.logLevel)
	if err != nil {
		return &usageError{err}
	}
	ctx, stop := daemon.UntilSignal(cmd.Context(), log)
	defer stop()
	return daemon.Run(ctx, o.config, log)
}

// maxNullSectors is the size of the largest disk: its offsets in bytes are below 2^63.
const maxNullSectors = 1 << 63 / sectorBytes

// setNull takes --null and --null-size into the configuration.
func (o *serveOptions) setNull(cmd *cobra.Command) error {
	if !o.null {
		if f := cmd.Flags().Lookup("null-size"); f != nil && f.Changed {
			return usagef("--null-size is for a disk without storage: add --null, or leave it out")
		}
		return nil
	}
	n, err := o.nullSize.sectors("null-size")
	if err != nil {
		return err
	}
	if n == 0 {
		return usagef("--null-size %s: a disk has at least one sector of %d bytes", o.nullSize.text, sectorBytes)
	}
	if n > maxNullSectors {
		return usagef("--null-size %s: too large: a disk has at most %s", o.nullSize.text, formatSize(maxNullSectors*sectorBytes))
	}
	o.config.NullSectors = n
	return nil
}
