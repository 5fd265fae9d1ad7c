package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/bench"
)

func newBench() *cobra.Command {
	c := bench.Default()
	rw, size, asJSON := string(c.RW), sizeFlag{bytes: uint64(c.BlockBytes), text: "4k"}, false
	cache := "buffered"
	cmd := &cobra.Command{
		Use:   "bench --socket-path PATH",
		Short: "Measure a vhost-user-blk back-end",
		Long: `Connects to a back-end as a virtual machine would, keeps requests in flight, and prints
the number of answered requests, their latency, and the processor time of the back-end
and of itself. The back-end may be any vhost-user-blk back-end: zvhost serve, or
qemu-storage-daemon. With --vfio-user it connects to a vfio-user server of a virtio block
device instead, such as zvhost serve --vfio-user.

Writes replace the data on the disk. On a zoned disk the first --zones sequential zones
are reset, written, and reset again when they are full. append keeps --iodepth requests
in flight over them; write keeps one in each zone, as Linux does; reads go to what has
been written. randwrite is for ordinary disks, append and report are for zoned ones.

SIGINT or SIGTERM ends the run and prints what has been measured by then. So do a request
that fails, --timeout without an answer, and a back-end that disconnects; then the exit
status is 1.

With --blk-file it reads and writes a file or block device itself, by io_uring, for
comparison with a back-end over it.`,
		Example: `  zvhost bench --socket-path /run/vm1.sock
  zvhost bench --socket-path /run/vm1.sock --rw randwrite --bs 4k --iodepth 1 --runtime 30s
  zvhost bench --socket-path /run/vm1.sock --rw append --zones 16
  zvhost bench --vfio-user /run/vm1.vfio --iodepth 1
  zvhost bench --blk-file disk.raw --cache=direct --rw randwrite
  zvhost bench --socket-path /run/vm1.sock --rw read --bs 1M --queues 2 --poll --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.RW = bench.RW(rw)
			if size.bytes > bench.MaxBlockBytes {
				return usagef("--bs=%s: must be a multiple of 512, up to %d MiB", size.text, bench.MaxBlockBytes>>20)
			}
			c.BlockBytes = int(size.bytes)
			switch cache {
			case "buffered":
			case "direct":
				c.Direct = true
			default:
				return usagef("--cache=%s: must be direct or buffered", cache)
			}
			if err := c.Validate(); err != nil {
				return &usageError{err}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, unix.SIGTERM)
			defer stop()
			defer context.AfterFunc(ctx, stop)() // a second signal ends the process by itself
			res, err := measured(ctx, c, cmd.ErrOrStderr())
			if err != nil && res.Requests == 0 {
				return err
			}
			// The result is printed also if the run ended with an error.
			if asJSON {
				return errors.Join(writeJSON(cmd.OutOrStdout(), res), err)
			}
			return errors.Join(res.Write(cmd.OutOrStdout()), err)
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&c.SocketPath, "socket-path", "", "measure the back-end that listens on this UNIX `PATH`")
	fs.StringVar(&c.VFIOUser, "vfio-user", "", "measure the vfio-user server that listens on this UNIX `PATH`")
	fs.StringVar(&c.File, "blk-file", "", "measure this `FILE` or block device itself, without a back-end")
	fs.StringVar(&cache, "cache", cache, "with --blk-file: page cache `MODE`, direct (bypass it) or buffered")
	fs.StringVar(&rw, "rw", rw, "`KIND` of requests: read, write, randread, randwrite, append, report")
	fs.Var(&size, "bs", "length of the data of a request")
	fs.IntVar(&c.Depth, "iodepth", c.Depth, "keep `N` requests in flight in each queue")
	fs.IntVar(&c.Queues, "queues", c.Queues, "use `N` queues, with one thread each")
	fs.IntVar(&c.Zones, "zones", c.Zones, "write `N` zones at once, all queues together")
	fs.DurationVar(&c.Runtime, "runtime", c.Runtime, "measure for this `TIME`, such as 30s")
	fs.DurationVar(&c.Timeout, "timeout", c.Timeout, "give up after this `TIME` without an answer")
	fs.BoolVar(&c.Poll, "poll", false, "check for answers all the time, instead of sleeping until the back-end calls")
	fs.BoolVar(&c.Packed, "packed", false, "use packed rings instead of split ones")
	fs.IntVar(&c.ServerPID, "server-pid", 0, "measure the processor time of process `N` (default: the listener on the socket)")
	fs.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// measured runs the benchmark, with a line of progress on a terminal.
func measured(ctx context.Context, c bench.Config, stderr io.Writer) (bench.Result, error) {
	f, ok := stderr.(*os.File)
	if !ok {
		return bench.Run(ctx, c, nil)
	}
	if _, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err != nil {
		return bench.Run(ctx, c, nil)
	}
	defer func() { _, _ = fmt.Fprintf(f, "\r%s\r", strings.Repeat(" ", defaultColumns-1)) }()
	return bench.Run(ctx, c, func(p bench.Progress) {
		_, _ = fmt.Fprintf(f, "\r%-*s", defaultColumns-1, p.Line(&c))
	})
}
