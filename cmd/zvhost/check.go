package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/zvhost/zvhost/backend/image"
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
		Long: `Verifies a zoned image that is not being served: superblock, zone tables, and
whether these agree with the data. Without --repair it changes nothing.

--repair rewrites a damaged block from its second copy: the superblock, the state
block, the blocks of the zone tables, and an entry of the live zone table if the image
was closed cleanly. It empties a damaged block of faults. If the superblock and its copy
are both intact and differ, it chooses the one that agrees with the file's size, state
blocks, faults and zone tables; both may agree, or neither. No data is lost. What has no
second copy is not changed, unless --repair has one of these values:

  safe            the same as --repair alone
  zone-offline    a zone with a damaged entry in the zone table goes offline. Its
                  data remains, flushed or not; 'zvhost zone set-state FILE ZONE
                  writable' brings the zone back with it. A guest that meets an
                  offline zone may give up the disk.
  zone-committed  such a zone returns to the state of its last flush: what guests
                  wrote to it since is lost. If both state blocks are damaged, this
                  applies to all zones.
  superblock, superblock-copy
                  of a superblock and a copy that differ, use this one, if the rest
                  of the file agrees with both, or with neither.

Other zones keep their state. Of findings of one kind the first 20 are listed. The exit
status is 0 if the image is sound or was repaired, and 1 with a list of findings if it
is not.`,
		Example: "  zvhost check disk.zvh\n  zvhost check disk.zvh --repair\n  zvhost check disk.zvh --repair=zone-offline\n  zvhost check disk.zvh --json",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 && cmd.Flags().Changed("repair") {
				if _, err := image.ParseRepairMode(args[1]); err == nil {
					return usagef("--repair %s is two arguments: write --repair=%s", args[1], args[1])
				}
			}
			return oneFile(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var mended []image.Finding
			var err error
			if cmd.Flags().Changed("repair") {
				mode, err := image.ParseRepairMode(repair)
				if err != nil {
					return usagef("--repair: %v", err)
				}
				if mended, err = image.Repair(args[0], mode); err != nil {
					return err
				}
			}
			findings, err := image.Check(args[0])
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
					_, _ = fmt.Fprintf(out, "%s: repaired: %s: %s\n", oneLine(args[0]), f.Where, f.What) // writeFindings has the error
				}
				err = writeFindings(out, args[0], findings)
			}
			if err == nil && len(findings) > 0 {
				err = errReported
			}
			return err
		},
	}
	cmd.Flags().StringVar(&repair, "repair", "", "repair damage from second copies; with `MODE`: other damage too")
	cmd.Flags().Lookup("repair").NoOptDefVal = image.RepairSafe.String()
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: a list, empty if the image is sound")
	return cmd
}

func writeFindings(w io.Writer, file string, findings []image.Finding) error {
	if len(findings) == 0 {
		_, err := fmt.Fprintf(w, "%s: sound\n", oneLine(file))
		return err
	}
	if _, err := fmt.Fprintf(w, "%s: %s\n", oneLine(file), count(len(findings), "finding")); err != nil {
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
		if _, err := fmt.Fprintf(w, "  to repair it: %s\n", named(f.Remedy, file)); err != nil {
			return err
		}
	}
	return nil
}

// named is a command line with the name of the file in it, as a shell reads it.
func named(remedy, file string) string { return strings.ReplaceAll(remedy, "FILE", shellWord(file)) }
