package rules

import (
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
)

// docs/vhost-user.md has a row for each message and feature of the protocol. The
// tests here hold it against package vhostuser.

// vhostUserHead is the first line of every table in it.
var vhostUserHead = [...]string{
	"| message | number | state | shown by, or why not |",
	"| feature | number | state | shown by, or why not |",
}

// A protocolRow is one row; section is the heading above it.
type protocolRow struct {
	section, name string
	number        int
	state, why    string
}

// parseProtocol finds the rows.
func parseProtocol(text string) (rows []protocolRow, errs []error) {
	section := ""
	for i, line := range strings.Split(text, "\n") {
		if s, ok := strings.CutPrefix(line, "## "); ok {
			section = s
		}
		if !strings.HasPrefix(line, "|") || strings.Trim(line, "|- ") == "" || line == vhostUserHead[0] || line == vhostUserHead[1] {
			continue
		}
		cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "|"), "|"), "|")
		for j := range cells {
			cells[j] = strings.TrimSpace(cells[j])
		}
		if len(cells) != 4 {
			errs = append(errs, fmt.Errorf("line %d: %d columns, not 4", i+1, len(cells)))
			continue
		}
		n, err := strconv.Atoi(cells[1])
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: %w", i+1, err))
		}
		rows = append(rows, protocolRow{section, cells[0], n, cells[2], cells[3]})
	}
	return rows, errs
}

// check says what is wrong with what a row says for itself.
func (r *protocolRow) check(s *sources) (errs []error) {
	switch r.state {
	case "supported":
		shown, _, _ := strings.Cut(r.why, ";")
		shown, _, _ = strings.Cut(shown, "`: ")
		shown = strings.TrimSuffix(shown, "`") + "`"
		for name := range strings.SplitSeq(shown, ", ") {
			m := testForm.FindStringSubmatch(name)
			if m == nil {
				errs = append(errs, fmt.Errorf("%s: %q is not a package and a test in it", r.name, name))
				continue
			}
			if err := s.hasTest(m[1], m[2], m[3]); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", r.name, err))
			}
		}
	case "not applicable", "not yet":
		if len(r.why) < 10 || strings.HasPrefix(r.why, "`") {
			errs = append(errs, fmt.Errorf("%s: %q is no reason", r.name, r.why))
		}
	default:
		errs = append(errs, fmt.Errorf("%s: %q is no state", r.name, r.state))
	}
	return errs
}

// handled reads the message table: by number, what a message is called and
// whether something handles it.
func (s *sources) handled() (names []string, handled []bool, err error) {
	f, err := s.parse("vhostuser/message.go")
	if err != nil {
		return nil, nil, err
	}
	number := map[string]int{} // of each message's constant
	ast.Inspect(f, func(n ast.Node) bool {
		g, ok := n.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST || len(g.Specs) < 40 {
			return true
		}
		for i, spec := range g.Specs {
			number[spec.(*ast.ValueSpec).Names[0].Name] = i + 1
		}
		return false
	})
	names, handled = make([]string, len(number)), make([]bool, len(number))
	ast.Inspect(f, func(n ast.Node) bool {
		kv, ok := n.(*ast.KeyValueExpr)
		if !ok {
			return true
		}
		key, _ := kv.Key.(*ast.Ident)
		row, ok := kv.Value.(*ast.CompositeLit)
		if !ok || key == nil || number[key.Name] == 0 {
			return true
		}
		at := number[key.Name]
		for _, e := range row.Elts {
			field := e.(*ast.KeyValueExpr)
			switch field.Key.(*ast.Ident).Name {
			case "name":
				names[at], err = strconv.Unquote(field.Value.(*ast.BasicLit).Value)
			case "handle":
				handled[at] = true
			}
		}
		return false
	})
	return names, handled, err
}

// offered reads the protocol features: by bit, what one is called and whether it
// is offered.
func (s *sources) offered() (names []string, offered []bool, err error) {
	f, err := s.parse("vhostuser/print.go")
	if err != nil {
		return nil, nil, err
	}
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || v.Names[0].Name != "protocolNames" {
			return true
		}
		for _, e := range v.Values[0].(*ast.CompositeLit).Elts {
			name, uerr := strconv.Unquote(e.(*ast.BasicLit).Value)
			names, err = append(names, name), uerr
		}
		return false
	})
	if f, err = s.parse("vhostuser/message.go"); err != nil {
		return nil, nil, err
	}
	offered = make([]bool, len(names))
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || v.Names[0].Name != "Offered" {
			return true
		}
		ast.Inspect(v.Values[0], func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok {
				want := strings.ToLower(strings.TrimPrefix(id.Name, "Protocol"))
				for i, name := range names {
					if strings.ReplaceAll(strings.ToLower(name), "_", "") == want {
						offered[i] = true
					}
				}
			}
			return true
		})
		return false
	})
	return names, offered, err
}

// checkProtocol says everything that is wrong with the tables in text.
func checkProtocol(text, root string) (rows []protocolRow, errs []error) {
	rows, errs = parseProtocol(text)
	s := &sources{root: root, files: make(map[string]*ast.File)}
	messages, handled, err := s.handled()
	if err != nil {
		return rows, append(errs, err)
	}
	features, offered, err := s.offered()
	if err != nil {
		return rows, append(errs, err)
	}
	seen := map[string]bool{}
	hold := func(r *protocolRow, names []string, does []bool) {
		switch {
		case r.number < 0 || r.number >= len(names) || names[r.number] != r.name:
			errs = append(errs, fmt.Errorf("%s: number %d is not that of the sources", r.name, r.number))
		case does[r.number] != (r.state == "supported"):
			errs = append(errs, fmt.Errorf("%s: it is %q, and in the sources supported: %v", r.name, r.state, does[r.number]))
		}
	}
	for i := range rows {
		r := &rows[i]
		errs = append(errs, r.check(s)...)
		if key := r.section + r.name; seen[key] {
			errs = append(errs, fmt.Errorf("%s stands there twice", r.name))
		} else {
			seen[key] = true
		}
		switch r.section {
		case "Front-end messages":
			hold(r, messages, handled)
		case "Protocol features":
			hold(r, features, offered)
		}
	}
	for section, names := range map[string][]string{"Front-end messages": messages, "Protocol features": features} {
		for _, name := range names {
			if name != "" && !seen[section+name] {
				errs = append(errs, fmt.Errorf("%s has no row", name))
			}
		}
	}
	return rows, errs
}

// The tables say what the sources do.
func TestVhostUserTable(t *testing.T) {
	text, err := os.ReadFile("../../docs/vhost-user.md")
	if err != nil {
		t.Fatal(err)
	}
	rows, errs := checkProtocol(string(text), "../..")
	for _, err := range errs {
		t.Errorf("docs/vhost-user.md: %v", err)
	}
	if len(rows) < 80 { // else a table is not seen
		t.Errorf("%d rows only", len(rows))
	}
}

// The check above can fail.
func TestVhostUserTableIsChecked(t *testing.T) {
	b, err := os.ReadFile("../../docs/vhost-user.md")
	if err != nil {
		t.Fatal(err)
	}
	const setOwner = "| SET_OWNER | 3 | supported | `vhostuser TestSessionLife`; a second one begins the session again: `vhostuser TestSecondOwnerBeginsAnew` |"
	for name, c := range map[string]struct{ from, to, want string }{
		"a row is missing":       {setOwner + "\n", "", "SET_OWNER has no row"},
		"a feature is missing":   {"| MQ | 0 |", "| MQQ | 0 |", "MQ has no row"},
		"twice":                  {setOwner, setOwner + "\n" + setOwner, "stands there twice"},
		"wrong number":           {"| SET_OWNER | 3 |", "| SET_OWNER | 4 |", "number 4 is not that of the sources"},
		"no number":              {"| SET_OWNER | 3 |", "| SET_OWNER | three |", "invalid syntax"},
		"no such test":           {"| SET_OWNER | 3 | supported | `vhostuser TestSessionLife`", "| SET_OWNER | 3 | supported | `vhostuser TestNobodyWrote`", "has no TestNobodyWrote"},
		"no test":                {setOwner, "| SET_OWNER | 3 | supported | it works |", "is not a package and a test"},
		"supported, but said no": {setOwner, "| SET_OWNER | 3 | not yet | nobody has come around to it |", `it is "not yet", and in the sources supported: true`},
		"said yes, but not":      {"| SEND_RARP | 19 | not applicable | for network devices |", "| SEND_RARP | 19 | supported | `vhostuser TestSessionLife` |", "supported: false"},
		"feature not offered":    {"| RARP | 2 | not applicable | for network devices |", "| RARP | 2 | supported | `vhostuser TestSessionLife` |", "supported: false"},
		"no reason":              {"| SEND_RARP | 19 | not applicable | for network devices |", "| SEND_RARP | 19 | not applicable | - |", "is no reason"},
		"no state":               {"| SEND_RARP | 19 | not applicable |", "| SEND_RARP | 19 | maybe |", "is no state"},
		"a column too few":       {setOwner, "| SET_OWNER | 3 | supported |", "3 columns, not 4"},
	} {
		text := strings.Replace(string(b), c.from, c.to, 1)
		if text == string(b) {
			t.Errorf("%s: nothing was changed", name)
			continue
		}
		_, errs := checkProtocol(text, "../..")
		found := false
		for _, err := range errs {
			found = found || strings.Contains(err.Error(), c.want)
		}
		if !found {
			t.Errorf("%s: %v does not say %q", name, errs, c.want)
		}
	}
}
