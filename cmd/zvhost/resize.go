package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/zvhost/zvhost/internal/control"
)

func newResize() *cobra.Command {
	return &cobra.Command{
		Use:   "resize SOCKET",
		Short: "Have a guest see that its disk has grown",
		Long: `Looks how large the file or device of an ordinary disk is now, and has the guest
use what it has grown by. SOCKET is the daemon's --control-path. Make the file larger
first (truncate -s 20G disk.raw). A disk never becomes smaller, and a zoned one keeps its size: guests take
their zones as they were at the start.`,
		Example: `  zvhost resize /run/vm1.control`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("%s needs a control socket (see %s --help)", cmd.CommandPath(), cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := control.Call(args[0], control.Request{Command: control.Resize})
			if err != nil {
				return err
			}
			size := formatSize(a.Sectors * sectorBytes)
			switch {
			case a.Sectors == a.Was:
				size += ", as before"
			case a.Told:
				size += fmt.Sprintf(" (before: %s), the guest was told", formatSize(a.Was*sectorBytes))
			default:
				size += fmt.Sprintf(" (before: %s); the guest sees it when it starts again: no front-end was there that can be told", formatSize(a.Was*sectorBytes))
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), size)
			return err
		},
	}
}
