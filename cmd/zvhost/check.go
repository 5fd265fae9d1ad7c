package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/zvhost/zvhost/backend"
)

// findingJSON is one entry of what zvhost check --json prints.
type findingJSON struct {
	Where    string `json:"where"`
	What     string `json:"what"`
	Repaired bool   `json:"repaired,omitempty"`
}

func newCheck() *cobra.Command {
	var asJSON, repair bool
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Verify a zoned image, and repair it",
		Long: `Verifies a zoned image that is not being served: superblock, zone tables and
what they say of the data. It changes nothing, but with --repair: then what is
damaged and stands twice in the image (the superblock, the state block, the
blocks of the committed zone table) is written anew from its good twin, and a
damaged block of faults is emptied. All else that has no good twin is left as it
is. The exit status is 0 when the image is sound, or
was made so, and 1 with a list of findings when it is not.`,
		Example: "  zvhost check disk.zvh\n  zvhost check disk.zvh --repair\n  zvhost check disk.zvh --json",
		Args:    oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			var mended []backend.Finding
			var err error
			if repair {
				if mended, err = backend.Repair(args[0]); err != nil {
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
					list = append(list, findingJSON{f.Where, f.What, true})
				}
				for _, f := range findings {
					list = append(list, findingJSON{f.Where, f.What, false})
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
	cmd.Flags().BoolVar(&repair, "repair", false, "write what is damaged anew from its good copy, where it has one")
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
	return t.Flush()
}
