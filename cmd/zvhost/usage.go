package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// unknownCommand is the error of a command line whose words name no command, else nil. It
// comes before the flags are parsed, since those of an unknown command are unknown too.
func unknownCommand(root *cobra.Command, args []string) error {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	cmd := root
	for _, arg := range args {
		if strings.HasPrefix(arg, "-") || !cmd.HasSubCommands() || strings.HasPrefix(arg, cobra.ShellCompRequestCmd) {
			return nil
		}
		next := childOf(cmd, arg)
		if next == nil {
			return noSuchCommand(cmd, arg)
		}
		cmd = next
	}
	return nil
}

func childOf(cmd *cobra.Command, name string) *cobra.Command {
	for _, c := range cmd.Commands() {
		if c.Name() == name || c.HasAlias(name) {
			return c
		}
	}
	return nil
}

func noSuchCommand(cmd *cobra.Command, name string) error {
	hint := ""
	if s := cmd.SuggestionsFor(name); len(s) > 0 {
		hint = ", did you mean " + strings.Join(s, " or ") + "?"
	}
	return usagef("unknown command %q%s (see %s --help)", name, hint, cmd.CommandPath())
}

// newHelp is cobra's help command, but fails for an unknown command.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Show the help of a command",
		Long:    "Shows the help of a command, as the command with --help does.",
		Example: "  zvhost help create\n  zvhost help fault add",
		RunE: func(cmd *cobra.Command, args []string) error {
			at := cmd.Root()
			for _, arg := range args {
				next := childOf(at, arg)
				if next == nil {
					return noSuchCommand(at, arg)
				}
				at = next
			}
			at.InitDefaultHelpFlag()
			return at.Help()
		},
	}
}

// flagError describes in the user's terms what is wrong with a flag.
func flagError(cmd *cobra.Command, err error) error {
	var value *pflag.InvalidValueError
	if !errors.As(err, &value) {
		return usagef("%w (see %s --help)", err, cmd.CommandPath())
	}
	f := value.GetFlag()
	want := ""
	switch f.Value.Type() {
	case "int":
		want = "must be a whole number"
	case "uint32":
		want = "must be a whole number, 0 or more, below 2^32"
	case "duration":
		want = "must be a time with its unit, such as 200ms, 10s or 1m"
	case "bool":
		want = "takes true or false, or nothing for true"
	default: // zvhost's own flag types describe it themselves
		cause := errors.Unwrap(value)
		return usagef("--%s=%s: %w (see %s --help)", f.Name, value.GetValue(), cause, cmd.CommandPath())
	}
	return usagef("--%s=%s: %s (see %s --help)", f.Name, value.GetValue(), want, cmd.CommandPath())
}

// oneLine is text as one line in which control characters are escaped: it contains names of
// files and what the user typed.
func oneLine(text string) string {
	var b strings.Builder
	for i, r := range text {
		switch {
		case r == '\n':
			b.WriteString("; ")
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case !unicode.IsPrint(r):
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// shellWord is text as one word of a command line that is to be pasted into a shell. What
// would end the line is written in the way that bash and ksh read.
func shellWord(text string) string {
	plain := func(r rune) bool {
		return unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("/._-+:,=@%", r)
	}
	switch {
	case text != "" && strings.TrimFunc(text, plain) == "" && utf8.ValidString(text):
		return text
	case oneLine(text) == text:
		return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
	}
	var b strings.Builder
	for _, c := range []byte(text) {
		if c < ' ' || c == 0x7f || c == '\'' || c == '\\' || c >= 0x80 {
			fmt.Fprintf(&b, `\x%02x`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return "$'" + b.String() + "'"
}
