package main

import (
	"fmt"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/daemon"
	"github.com/zvhost/zvhost/internal/keeper"
)

// childFlag makes the program execute the command as a keeper's child.
const childFlag = "child"

func newKeeper() *cobra.Command {
	var child bool
	cmd := &cobra.Command{
		Use:   "keeper -- zvhost serve ...",
		Short: "Run a daemon so that a guest does not notice its death or upgrade",
		Long: `Runs the command, and starts it again when it dies. The keeper holds the guest's
connection open meanwhile, and the next process continues the session: a guest sees a
disk that is slow for a moment. If systemd starts zvhost, its fd store does the same
(FileDescriptorStoreMax= in the unit), and no keeper is needed.

A command that ends with status 2 before it has served, or with 3, is not started
again: the keeper ends with the same status.

SIGHUP restarts the command, for example from a newer file, once it has finished what is
in flight; under nohup(1) it has no effect. SIGTERM ends both.`,
		Example: `  zvhost keeper -- zvhost serve --socket-path /run/vm1.sock --blk-file disk.zvh`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("%s needs the command to run, after -- (see %s --help)", cmd.CommandPath(), cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if child {
				return keeper.Exec(args)
			}
			signals := make(chan os.Signal, 4)
			signal.Notify(signals, daemon.EndSignals()...)
			// The keeper ends its child with SIGINT, so the child must not inherit an ignored
			// SIGINT. Nothing reads this channel.
			signal.Notify(make(chan os.Signal, 1), unix.SIGINT)
			defer signal.Stop(signals)
			status, err := keeper.Run(keeper.Options{
				Args: args, Self: []string{"keeper", "--" + childFlag, "--"}, Signals: signals, GiveUp: exitLasting,
				Log: func(format string, args ...any) {
					_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "zvhost keeper: "+format+"\n", args...)
				},
			})
			if err != nil {
				return err
			}
			if status != exitOK {
				return childError(status)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&child, childFlag, false, "")
	_ = cmd.Flags().MarkHidden(childFlag)
	return cmd
}

// childError is the status of the keeper's command, which has printed its error itself.
type childError int

func (e childError) Error() string { return fmt.Sprintf("the command ended with status %d", int(e)) }
