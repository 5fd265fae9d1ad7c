package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/zvhost/zvhost/backend"
)

// findingJSON is one entry of what zvhost check --json prints.
type findingJSON struct {
	Where    string `json:"where"`
	What     string `json:"what"`
	Repaired bool   `json:"repaired,omitempty"`
	Remedy   string `json:"remedy,omitempty"`
}

func newCheck() *cobra.Command {
	var asJSON bool
	var repair string
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Verify a zoned image, and repair it",
		Long: `Verifies a zoned image that is not being served: superblock, zone tables and
what they say of the data. It changes nothing, but with --repair: then what is
damaged and stands twice in the image (the superblock, the state block, the
blocks of the zone tables, and an entry of the live zone table where the image was
closed cleanly) is written anew from its good twin, and a damaged block of faults
is emptied. Where the superblock and its copy are both whole and differ, the one
counts that goes with the file's size, state blocks, faults and zone tables; both
may, or neither. Nothing is lost with that. What has no good twin is left as it is,
unless --repair says what is to become of it:

  safe            nothing: that is --repair alone
  zone-offline    a zone whose entry in the zone table is damaged goes offline. It
                  keeps what it holds, written to it or not yet flushed;
                  'zvhost zone set-state FILE ZONE writable' brings it back with
                  that. A guest that meets an offline zone may give up the disk.
  zone-committed  such a zone is what its last flush left of it: what guests wrote to
                  it since is lost. Where both state blocks are damaged, nobody
                  knows how the image was left, and this goes for all zones.
  superblock, superblock-copy
                  the one that counts of a superblock and a copy that differ, where
                  the rest of the file goes with both, or with neither.

Other zones stay as guests were told in either case. Of findings of one kind the
first 20 are listed. The exit status is 0 when the image is sound, or
was made so, and 1 with a list of findings when it is not.`,
		Example: "  zvhost check disk.zvh\n  zvhost check disk.zvh --repair\n  zvhost check disk.zvh --repair=zone-offline\n  zvhost check disk.zvh --json",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 && cmd.Flags().Changed("repair") {
				if _, err := backend.ParseRepairMode(args[1]); err == nil {
					return usagef("--repair %s is two arguments: write --repair=%s", args[1], args[1])
				}
			}
			return oneFile(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var mended []backend.Finding
			var err error
			if cmd.Flags().Changed("repair") {
				mode, err := backend.ParseRepairMode(repair)
				if err != nil {
					return usagef("--repair: %v", err)
				}
				if mended, err = backend.Repair(args[0], mode); err != nil {
					return err
				}
			}
			findings, err := backend.Check(args[0])
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if asJSON {
				list := make([]findingJSON, 0, len(mended)+len(findings))
				for _, f := range mended {
					list = append(list, findingJSON{Where: f.Where, What: f.What, Repaired: true})
				}
				for _, f := range findings {
					list = append(list, findingJSON{Where: f.Where, What: f.What, Remedy: named(f.Remedy, args[0])})
				}
				err = writeJSON(out, list)
			} else {
				for _, f := range mended {
					_, _ = fmt.Fprintf(out, "%s: repaired: %s: %s\n", args[0], f.Where, f.What) // writeFindings has the error
				}
				err = writeFindings(out, args[0], findings)
			}
			if err == nil && len(findings) > 0 {
				err = errReported
			}
			return err
		},
	}
	cmd.Flags().StringVar(&repair, "repair", "", "mend what has a good copy; `MODE`: the rest too")
	cmd.Flags().Lookup("repair").NoOptDefVal = backend.RepairSafe.String()
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: a list, empty when the image is sound")
	return cmd
}

func writeFindings(w io.Writer, file string, findings []backend.Finding) error {
	if len(findings) == 0 {
		_, err := fmt.Fprintf(w, "%s: sound\n", file)
		return err
	}
	if _, err := fmt.Fprintf(w, "%s: %s\n", file, count(len(findings), "finding")); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range findings {
		_, _ = fmt.Fprintf(t, "  %s\t%s\n", f.Where, f.What) // Flush has the error
	}
	if err := t.Flush(); err != nil {
		return err
	}
	said := map[string]bool{"": true}
	for _, f := range findings {
		if said[f.Remedy] {
			continue
		}
		said[f.Remedy] = true
		if _, err := fmt.Fprintf(w, "  to go on all the same: %s\n", named(f.Remedy, file)); err != nil {
			return err
		}
	}
	return nil
}

// named is a command line with the name of the file in it.
func named(remedy, file string) string { return strings.ReplaceAll(remedy, "FILE", file) }
