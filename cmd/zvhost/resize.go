package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/zvhost/zvhost/internal/control"
)

func newResize() *cobra.Command {
	return &cobra.Command{
		Use:   "resize SOCKET",
		Short: "Report to a guest that its disk has grown",
		Long: `Reads the size of the file or device of an ordinary disk, and reports it to the guest if
it has grown. SOCKET is the daemon's --control-path. Extend the file first (truncate -s
20G disk.raw). A disk never shrinks, and a zoned disk has a fixed size: guests read their
zones at the start.`,
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
				size += fmt.Sprintf(" (before: %s), reported to the guest", formatSize(a.Was*sectorBytes))
			default:
				size += fmt.Sprintf(" (before: %s); the guest sees it when it starts again: no front-end is connected that can be notified", formatSize(a.Was*sectorBytes))
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), size)
			return err
		},
	}
}
