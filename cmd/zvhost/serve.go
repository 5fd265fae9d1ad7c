package main

import (
	"runtime/debug"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/zvhost/zvhost/internal/daemon"
	"github.com/zvhost/zvhost/internal/logging"
)

// serveOptions are the flags of serve. The root command has the conventional
// ones of them.
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
		// As large as a disk needs to be to look like one.
		nullSize: sizeFlag{bytes: 64 << 30, text: "64G"},
	}
}

// addConventional adds what management software may pass (vhost-user.rst,
// "Backend program conventions").
func (o *serveOptions) addConventional(fs *pflag.FlagSet) {
	fs.SortFlags = false
	fs.StringVar(&o.config.SocketPath, "socket-path", "", "listen on this UNIX `PATH`")
	fs.IntVar(&o.config.FD, "fd", daemon.NoFD, "use inherited socket `N`, listening or connected, instead of --socket-path")
	fs.StringVar(&o.config.BlkFile, "blk-file", "", "the image, `FILE` or block device to serve")
	fs.BoolVar(&o.config.ReadOnly, "read-only", false, "serve it read-only")
	fs.StringVar(&o.logLevel, "log-level", "info", "what to log, a `LEVEL`: error, warning, info or debug")
	fs.BoolVar(&o.debug, "debug", false, "log every vhost-user message in words (implies --log-level=debug)")
	fs.Lookup("fd").DefValue = "0" // pflag leaves a zero default unmentioned
}

func newServe() *cobra.Command {
	opts := newServeOptions()
	cmd := &cobra.Command{
		Use:   "serve --socket-path PATH --blk-file FILE",
		Short: "Serve a disk to a virtual machine",
		Long: `Serves a disk over a vhost-user socket until SIGTERM. What FILE is decides how: a
zoned image, or a zoned drive of the host (SMR, ZNS, null_blk), becomes a
host-managed zoned disk; any other file or block device becomes an ordinary disk
with discard and write-zeroes. With --zones several daemons can share a drive.

One front-end at a time: another one that connects meanwhile is let in if the
first leaves within two seconds, and disconnected otherwise; it takes the place of
one whose process is dead at once. When a front-end leaves, the next may come; with
a connected socket in --fd, zvhost ends then.

Bytes at the end of an ordinary disk's file that are no whole block are not served, and
stay as they are; the log says how many.

A guest can write into its ordinary disk what makes the file a zoned image the
next time it is served; --format raw serves it as it was, whatever stands in it.

--block-size says what blocks an ordinary disk has, whatever its file system or device
prefers: 512 (the default for files) or 4096; a device's own are the default for it.
It never changes by itself. An image or a zoned drive has blocks of its own.

--aio has QEMU's names; native is linux-aio, which wants --cache=direct and is the
default for zoned drives.

For a live migration, --incoming starts the daemon that the guest is to come to
while the one that it comes from still has the disk. It looks at FILE, and takes it
when the guest's queues start here; it waits for 10 s if it has to, and refuses
then. A daemon lets go of the disk by itself when its front-end has stopped all
queues of a guest whose writes are logged, and takes it again if the guest stays.

A socket file that no process listens on any more is replaced. Under systemd
socket activation the handed-over socket is used.`,
		Example: `  zvhost serve --socket-path /run/vm1.sock --blk-file disk.zvh
  zvhost serve --socket-path /run/vm1.sock --blk-file disk.zvh --queues 4 --serial VM1-DATA
  zvhost serve --socket-path /run/vm1.sock --blk-file /dev/nvme0n2 --zones 16-79
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

// add adds the flags of serve. Their defaults are those of newServeOptions: the root
// command has them too, and not the flags.
func (o *serveOptions) add(fs *pflag.FlagSet) {
	o.addConventional(fs)
	fs.IntVar(&o.config.Queues, "queues", 1, "offer `N` request queues; give the front-end as many")
	fs.BoolVar(&o.config.SplitRings, "split-rings", false, "offer no packed rings")
	fs.StringVar(&o.config.Serial, "serial", "", "serial number that the guest sees, an `ID` of at most 20 characters")
	fs.StringVar((*string)(&o.config.Format), "format", "", "what FILE has to be, a `FORMAT`: raw or zoned (default: what it is)")
	fs.StringVar((*string)(&o.config.AIO), "aio", "", "`ENGINE` for I/O: io_uring (default where the kernel has it), native or threads")
	fs.DurationVar(&o.config.PollMax, "poll-max", daemon.DefaultPollMax, "look so long, a `TIME`, for more work before sleeping; 0: never")
	fs.StringVar((*string)(&o.config.Cache), "cache", "", "page cache `MODE`: buffered, or direct (the default for zoned drives)")
	fs.Var(&o.window, "zones", "serve these zones of a zoned device only, numbered from 0")
	fs.BoolVar(&o.config.Incoming, "incoming", false, "take the disk when queues start: a guest is to come from another zvhost")
	fs.Var(&o.mode, "socket-mode", "permissions of the socket: who may write may connect")
	fs.StringVar(&o.config.SocketGroup, "socket-group", "", "`GROUP` of the socket (default: the daemon's)")
	fs.StringVar(&o.config.ControlPath, "control-path", "", "take zvhost fault and zvhost zone on this UNIX `PATH`, from root and its own user")
	fs.Var(&o.faults, "fault", "let something go wrong in this run (see zvhost fault add); may be given again")
	fs.BoolVar(&o.null, "null", false, "instead of --blk-file: a disk without storage, to measure all else with")
	fs.Var(&o.nullSize, "null-size", "size of that disk")
	fs.BoolVar(&o.create, "create", false, "make a zoned image first if FILE does not exist, with the options below")
	o.geometry.add(fs)
}

// serve puts the flags together and runs the daemon.
func (o *serveOptions) serve(cmd *cobra.Command) error {
	// A panic's own status is that of a wrong command line, which nobody starts again
	// (RestartPreventExitStatus= in the unit): it is to end in SIGABRT.
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
		if f := cmd.Flags().Lookup(name); f != nil && f.Changed && o.config.SocketPath == "" {
			return usagef("--%s is for the socket that zvhost makes: add --socket-path, or leave it out and let who makes the socket say who may connect", name)
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

// setNull makes of --null and --null-size what the configuration has of them.
func (o *serveOptions) setNull(cmd *cobra.Command) error {
	if !o.null {
		if f := cmd.Flags().Lookup("null-size"); f != nil && f.Changed {
			return usagef("--null-size is the size of a disk without storage: add --null, or leave it out")
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
	o.config.NullSectors = n
	return nil
}
