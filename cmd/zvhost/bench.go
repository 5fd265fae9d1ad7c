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
		Long: `Connects to a back-end as a virtual machine would, keeps requests in flight, and
says how many were answered and how fast, and what processor time that took the
back-end and itself. Any vhost-user-blk back-end will do: zvhost serve, or
qemu-storage-daemon.

What is written replaces what is on the disk. On a zoned disk the first --zones
sequential zones are reset, written and reset again when they are full; append
keeps --iodepth requests in flight over them, write one in each zone, as Linux
does; reads go to what has been written. randwrite is for ordinary disks, append
and report are for zoned ones.

SIGINT or SIGTERM ends it: what has been measured by then is printed. So it is when a
request fails, when nothing is answered for --timeout, or when the back-end goes
away; then the exit status is 1.

With --blk-file it reads and writes a file or block device itself, by io_uring:
what a back-end over it can be held against.`,
		Example: `  zvhost bench --socket-path /run/vm1.sock
  zvhost bench --socket-path /run/vm1.sock --rw randwrite --bs 4k --iodepth 1 --runtime 30s
  zvhost bench --socket-path /run/vm1.sock --rw append --zones 16
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
			// What was measured is told, also when it ended with an error.
			if asJSON {
				return errors.Join(writeJSON(cmd.OutOrStdout(), res), err)
			}
			return errors.Join(res.Write(cmd.OutOrStdout()), err)
		},
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&c.SocketPath, "socket-path", "", "measure the back-end that listens on this UNIX `PATH`")
	fs.StringVar(&c.File, "blk-file", "", "measure this `FILE` or block device itself, without a back-end")
	fs.StringVar(&cache, "cache", cache, "with --blk-file: `HOW`, direct (around the page cache) or buffered")
	fs.StringVar(&rw, "rw", rw, "`WHAT` to do: read, write, randread, randwrite, append or report")
	fs.Var(&size, "bs", "data of a request")
	fs.IntVar(&c.Depth, "iodepth", c.Depth, "keep `N` requests in flight in each queue")
	fs.IntVar(&c.Queues, "queues", c.Queues, "use `N` queues, a thread each")
	fs.IntVar(&c.Zones, "zones", c.Zones, "write `N` zones at once, all queues together")
	fs.DurationVar(&c.Runtime, "runtime", c.Runtime, "how long, a `TIME` such as 30s")
	fs.DurationVar(&c.Timeout, "timeout", c.Timeout, "give up when nothing is answered for so long, a `TIME`")
	fs.BoolVar(&c.Poll, "poll", false, "look for answers all the time, instead of sleeping until the back-end calls")
	fs.BoolVar(&c.Packed, "packed", false, "use packed rings instead of split ones")
	fs.IntVar(&c.ServerPID, "server-pid", 0, "tell the processor time of process `N` (default: who listens on the socket)")
	fs.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// measured runs the benchmark, with a line on a terminal that says how far it is.
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
