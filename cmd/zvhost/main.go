package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/zvhost/zvhost/internal/daemon"
)

// The exit statuses.
const (
	exitOK      = 0
	exitFailure = 1 // a retry may succeed, or a guest waits for the next process
	exitUsage   = 2
	// exitLasting is the status of a daemon that would fail in the same way again. Neither
	// the unit (RestartPreventExitStatus=) nor a keeper starts it again.
	exitLasting = 3
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run carries out one command line and returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	// "Other options and arguments should be ignored", so this comes before they are
	// parsed (vhost-user.rst, "Backend program conventions").
	if slices.Contains(args, "--"+printCapabilitiesFlag) {
		if err := printCapabilities(stdout); err != nil {
			return fail(stderr, err)
		}
		return exitOK
	}
	root := newRoot()
	root.SetArgs(append([]string{}, args...)) // not nil: cobra would use the arguments of the process
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := unknownCommand(root, args); err != nil {
		return fail(stderr, err)
	}
	if err := root.Execute(); err != nil {
		return fail(stderr, err)
	}
	return exitOK
}

// fail prints err in one line and returns the exit status for it.
func fail(stderr io.Writer, err error) int {
	if errors.Is(err, errReported) {
		return exitFailure
	}
	var child childError
	if errors.As(err, &child) {
		return int(child)
	}
	_, _ = fmt.Fprintf(stderr, "zvhost: %s\n", oneLine(err.Error()))
	var ended *endedError
	if errors.As(err, &ended) {
		return ended.status
	}
	var usage *usageError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case daemon.Lasting(err):
		return exitLasting
	}
	return exitFailure
}

// errReported is returned by a command that has printed the error on its standard
// output.
var errReported = errors.New("reported")

// A usageError is a command line that cannot be carried out whatever the state
// of the machine.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "zvhost",
		Short: "Zoned disks for virtual machines, over vhost-user",
		Long: `zvhost gives virtual machines zoned disks: it serves an image file, or any file
or block device, to one front-end (QEMU, crosvm, cloud-hypervisor, ...) over a
vhost-user socket.

Without a command it serves, so that management software can start it by the
conventions for vhost-user back-ends: --socket-path or --fd, and --blk-file.

The exit status is 0 for success, 2 for a wrong command line and 1 for any other
failure. But serve ends with 3 if it cannot start for a reason that the operator has
to remove (the file is missing, is damaged, has another format or other permissions, an
option does not fit it, the group does not exist, there is no socket to listen on), so
that a service manager does not try again.`,
		Example: `  zvhost create disk.zvh --size 8G --zone-size 64M
  zvhost serve --socket-path /run/vm1.sock --blk-file disk.zvh
  zvhost report disk.zvh --map
  zvhost fault add /run/vm1.control write,zone=5,once
  zvhost --fd=7 --blk-file=disk.zvh --read-only`,
		SilenceErrors:              true,
		SuggestionsMinimumDistance: 2,
		SilenceUsage:               true,
		CompletionOptions:          cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	opts := newServeOptions()
	opts.addConventional(root.Flags())
	root.Flags().Bool(printCapabilitiesFlag, false, "print the capabilities of this back-end as JSON and exit")
	root.RunE = func(cmd *cobra.Command, _ []string) error {
		if cmd.Flags().NFlag() == 0 {
			return cmd.Help()
		}
		return opts.serve(cmd)
	}
	root.Version = buildVersion()
	root.SetVersionTemplate(versionLine())
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(newHelp())
	root.AddCommand(newCreate(), newServe(), newKeeper(), newAttach(), newDetach(), newReport(), newCheck(), newFault(), newZone(), newResize(), newBench(), newVersion())
	return root
}

// oneFile is the argument check of the commands that take one file.
func oneFile(cmd *cobra.Command, args []string) error {
	switch len(args) {
	case 1:
		return nil
	case 0:
		return usagef("%s needs the file as its argument (see %s --help)", cmd.CommandPath(), cmd.CommandPath())
	}
	return usagef("%s takes one file, but was given %d (see %s --help)", cmd.CommandPath(), len(args), cmd.CommandPath())
}

// noArgs is the argument check of the commands that take flags only.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no argument, but was given %q (see %s --help)", cmd.CommandPath(), args[0], cmd.CommandPath())
	}
	return nil
}
