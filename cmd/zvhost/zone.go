package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/control"
)

func newZone() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "zone",
		Short: "Change the states of zones",
		Example: `  zvhost zone set-state disk.zvh 3,5-7 read-only
  zvhost zone set-state /run/vm1.control 12 offline`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newSetState())
	return cmd
}

func newSetState() *cobra.Command {
	return &cobra.Command{
		Use:   "set-state FILE|SOCKET ZONES STATE",
		Short: "Set the state of zones, also while a guest uses them",
		Long: `Sets the state of zones of a zoned image, as a drive does whose media fails. Give the
image itself if it is not being served, and otherwise the daemon's --control-path.
ZONES are numbers and ranges such as 3,5-7, or all. A STATE is

  read-only   the zone can be read, and nothing else
  offline     the zone cannot be read either
  full        as if it had been finished
  empty       as if it had been reset: its data is erased
  writable    back from read-only or offline, with its data: empty, closed or full,
              depending on its write pointer

Conventional zones can be read-only, offline and writable. A zone with writes in flight
changes when they have landed. All changes are durable when the command ends.`,
		Example: `  zvhost zone set-state disk.zvh 3,5-7 read-only
  zvhost zone set-state /run/vm1.control 12 offline
  zvhost zone set-state /run/vm1.control all writable`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 3 {
				return usagef("%s needs an image or a control socket, zones and a state (see %s --help)", cmd.CommandPath(), cmd.CommandPath())
			}
			if err := zone.CheckSet(args[1]); err != nil {
				return &usageError{err}
			}
			if _, err := backend.ParseZoneTarget(args[2]); err != nil {
				return &usageError{err}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := setState(args[0], args[1], args[2])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s set to %s\n", count(n, "zone"), args[2])
			return err
		},
	}
}

// setState sets zones of an image or, if path is a control socket, of a daemon's disk. It
// returns the number of zones.
func setState(path, zones, state string) (n int, err error) {
	st, err := os.Stat(path)
	if err == nil && st.Mode().Type() == fs.ModeSocket {
		a, err := control.Call(path, control.Request{Command: control.SetState, Zones: zones, State: state})
		return a.Zones, err
	}
	kind, err := image.Probe(path)
	if err != nil {
		return 0, err
	}
	if kind == disk.KindPlain { // before anything is opened for writing
		return 0, fmt.Errorf("%s: the disk is an ordinary one: it has no zones", path)
	}
	dk, err := backend.Open(path, disk.Options{})
	var inUse *disk.InUseError
	switch {
	case errors.As(err, &inUse) && inUse.Holder != "":
		return 0, fmt.Errorf("%s: in use by %s: give its control socket instead (serve --control-path)", path, inUse.Holder)
	case err != nil:
		return 0, err
	}
	if n, err = control.SetZones(dk, zones, state); err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return n, errors.Join(err, dk.Close())
}
