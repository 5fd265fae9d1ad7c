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

// childFlag makes the program the last step of a keeper's child.
const childFlag = "child"

func newKeeper() *cobra.Command {
	var child bool
	cmd := &cobra.Command{
		Use:   "keeper -- zvhost serve ...",
		Short: "Run a daemon whose death or upgrade a guest does not notice",
		Long: `Runs the command, and starts it again when it dies. The keeper holds the guest's
connection meanwhile, and the new process goes on where the old one was: a guest
sees a disk that is slow for a moment. Where systemd starts zvhost, its fd store
does the same (FileDescriptorStoreMax= in the unit), and no keeper is needed.

A command that ends with status 2 before it has served, or with 3, is not started
again: the keeper ends with the same status.

SIGHUP starts the command anew, for example from a newer file, once it has
finished what is in flight; under nohup(1) it does nothing. SIGTERM ends both.`,
		Example: `  zvhost keeper -- zvhost serve --socket-path /run/vm1.sock --blk-file disk.zvh`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("%s needs the command to run, behind -- (see %s --help)", cmd.CommandPath(), cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if child {
				return keeper.Exec(args)
			}
			signals := make(chan os.Signal, 4)
			signal.Notify(signals, daemon.EndSignals()...)
			// The child is ended by SIGINT: it must not find that ignored, whatever the keeper
			// does with its own. Nobody reads these.
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

// childError is the status of the command that was kept, which has said itself
// what was wrong.
type childError int

func (e childError) Error() string { return fmt.Sprintf("the command ended with status %d", int(e)) }
