package main

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/internal/control"
)

func newFault() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fault",
		Short: "Inject faults into a disk that is being served",
		Long: `Injects faults into a disk that is being served, to test how a guest reacts. SOCKET is
the daemon's --control-path.`,
		Example: `  zvhost fault add /run/vm1.control write,zone=5,once
  zvhost fault list /run/vm1.control
  zvhost fault clear /run/vm1.control`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newFaultAdd(), newFaultList(), newFaultClear())
	return cmd
}

func newFaultAdd() *cobra.Command {
	return &cobra.Command{
		Use:   "add SOCKET SPEC...",
		Short: "Add faults",
		Long: `Adds faults and prints their numbers. If one SPEC is wrong, none is added. The faults
apply to requests that are sent from then on. A SPEC begins with the kind of the fault:

  read             reads fail with an I/O error
  write            writes fail (but not appends)
  append           appends fail (but not writes)
  flush            flushes fail
  latency=TIME     answers are delayed by TIME, such as 200ms, at most 1h
  full             writes and appends find no space left; resets free none

and continues with restrictions, separated by commas:

  zone=N, zone=N-M only requests that touch these zones
  sectors=N-M      only requests that touch these sectors (512 bytes) of the disk
  once, times=N    how often (default: always)
  after=N          write, append: the first N sectors land, and then the request
                   fails; requests that are not longer are not affected
  op=OP            latency: only read, write, append or flush (flush has no zone
                   or sectors); may be repeated
  left=SIZE        full: so many bytes still find space, such as 1M

A request that is invalid keeps its own error. A write that fails leaves the zone's
write pointer behind what has landed. A fault that is added here remains until the
daemon ends.`,
		Example: `  zvhost fault add /run/vm1.control write,zone=5,once,after=16
  zvhost fault add /run/vm1.control read,sectors=1000-1999 latency=200ms,op=write,zone=4`,
		Args: socketAnd("SPEC", 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := control.Request{Command: control.FaultAdd}
			for _, text := range args[1:] {
				f, err := disk.ParseFault(text)
				if err != nil {
					return &usageError{err}
				}
				r.Faults = append(r.Faults, f)
			}
			a, err := control.Call(args[0], r)
			if err != nil {
				return err
			}
			for _, id := range a.IDs {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), id); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func newFaultList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list SOCKET",
		Short: "Show the faults, and how often each has struck",
		Long: `Shows the faults of a disk and how many requests each has struck. A fault that has
struck the given number of times is spent: it strikes no more, and stays in the list
until it is cleared.`,
		Example: `  zvhost fault list /run/vm1.control
  zvhost fault list /run/vm1.control --json | jq '.[] | select(.spent | not)'`,
		Args: socketAnd("", 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := control.Call(args[0], control.Request{Command: control.FaultList})
			if err != nil {
				return err
			}
			if asJSON {
				if a.Faults == nil {
					a.Faults = []disk.FaultStatus{}
				}
				return writeJSON(cmd.OutOrStdout(), a.Faults)
			}
			return writeFaults(cmd.OutOrStdout(), a.Faults)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: a list of id, fault, struck and spent")
	return cmd
}

func writeFaults(w io.Writer, faults []disk.FaultStatus) error {
	if len(faults) == 0 {
		_, err := fmt.Fprintln(w, "no faults")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "ID\tSTRUCK\tFAULT") // Flush has the error
	for _, f := range faults {
		spent := ""
		if f.Spent {
			spent = " (spent)"
		}
		_, _ = fmt.Fprintf(t, "%d\t%d\t%v%s\n", f.ID, f.Struck, f.Fault, spent)
	}
	return t.Flush()
}

func newFaultClear() *cobra.Command {
	return &cobra.Command{
		Use:   "clear SOCKET [ID...|all]",
		Short: "Remove faults",
		Long: `Removes the faults with the given numbers, or all. Answers that they delay are sent at
once. Faults that the image was created with return the next time it is served.`,
		Example: "  zvhost fault clear /run/vm1.control 3\n  zvhost fault clear /run/vm1.control all",
		Args:    socketAnd("", -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := control.Request{Command: control.FaultClear}
			if ids := args[1:]; len(ids) != 1 || ids[0] != "all" {
				for _, text := range ids {
					id, err := strconv.ParseUint(text, 10, 64)
					if err != nil {
						return usagef("%q is not the number of a fault: give numbers that fault list shows, or all", text)
					}
					r.IDs = append(r.IDs, id)
				}
			}
			a, err := control.Call(args[0], r)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s cleared\n", count(a.Cleared, "fault"))
			return err
		},
	}
}

// socketAnd is the argument check of commands that take a control socket and then at
// least so many arguments called what; with least 0 no argument, with -1 any number.
func socketAnd(what string, least int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return usagef("%s needs the daemon's control socket (see %s --help)", cmd.CommandPath(), cmd.CommandPath())
		case least == 0 && len(args) > 1:
			return usagef("%s takes only a control socket, but was given %q too (see %s --help)", cmd.CommandPath(), args[1], cmd.CommandPath())
		case len(args) <= least:
			return usagef("%s needs a %s after the socket (see %s --help)", cmd.CommandPath(), what, cmd.CommandPath())
		}
		return nil
	}
}
