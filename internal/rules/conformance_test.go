package rules

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// docs/conformance.md has a row for each rule of the specification: id, rule,
// where in the code it is kept, and the tests that show it or why it does not
// apply. The tests here read it and hold it against the sources.

// conformanceHead is the first line of every table in it.
const conformanceHead = "| id | rule | where | shown by |"

var (
	idForm    = regexp.MustCompile("^`[a-z]+(-[a-z0-9]+)+`$")
	whereForm = regexp.MustCompile("^`([a-z_/]+\\.go) ([A-Za-z_]\\w*)`$")
	testForm  = regexp.MustCompile("^`([a-z_/]+) ((?:Test|Fuzz)\\w+)(?:/([^`]+))?`$")
	notForm   = regexp.MustCompile(`^not applicable: \S.{15,}$`)
)

// A row of the table; line is where it stands.
type row struct {
	line                  int
	id, rule, where, show string
}

// parseRows finds the rows. A line of a table that is no row of four columns is
// an error.
func parseRows(text string) (rows []row, errs []error) {
	inTable := false
	for i, line := range strings.Split(text, "\n") {
		switch {
		case line == conformanceHead:
			inTable = true
			continue
		case !strings.HasPrefix(line, "|"):
			inTable = false
			continue
		case strings.Trim(line, "|- ") == "":
			continue
		case !inTable:
			errs = append(errs, fmt.Errorf("line %d: a table whose head is not %q", i+1, conformanceHead))
			continue
		}
		cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "|"), "|"), "|")
		if len(cells) != 4 {
			errs = append(errs, fmt.Errorf("line %d: %d columns, not 4", i+1, len(cells)))
			continue
		}
		for j := range cells {
			cells[j] = strings.TrimSpace(cells[j])
		}
		rows = append(rows, row{i + 1, cells[0], cells[1], cells[2], cells[3]})
	}
	return rows, errs
}

// sources answers what a package's files declare. Each file is parsed once and
// nothing is run.
type sources struct {
	root  string
	files map[string]*ast.File
}

func (s *sources) parse(path string) (*ast.File, error) {
	if f, ok := s.files[path]; ok {
		return f, nil
	}
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(s.root, path), nil, parser.SkipObjectResolution)
	if err == nil {
		s.files[path] = f
	}
	return f, err
}

// declares says whether the file at path declares name at its top level, a
// method counting under its own name.
func (s *sources) declares(path, name string) (bool, error) {
	f, err := s.parse(path)
	if err != nil {
		return false, err
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Name.Name == name {
				return true, nil
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					if spec.Name.Name == name {
						return true, nil
					}
				case *ast.ValueSpec:
					for _, id := range spec.Names {
						if id.Name == name {
							return true, nil
						}
					}
				}
			}
		}
	}
	return false, nil
}

// imports says whether f imports the package at this path of the module.
func imports(f *ast.File, path string) bool {
	return slices.ContainsFunc(f.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == strconv.Quote(module+"/"+path) })
}

// hasTest says whether package dir has test function name, and each part of sub
// among its string literals, or among those of a package of forTests that its tests
// import, as go test spells it.
func (s *sources) hasTest(dir, name, sub string) error {
	paths, err := filepath.Glob(filepath.Join(s.root, dir, "*_test.go"))
	if err != nil || len(paths) == 0 {
		return fmt.Errorf("package %s has no tests", dir)
	}
	found := false
	literals := map[string]bool{}
	for i := 0; i < len(paths); i++ { // which grows
		path, err := filepath.Rel(s.root, paths[i])
		if err != nil {
			return err
		}
		f, err := s.parse(path)
		if err != nil {
			return err
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == name {
				found = true
			}
		}
		for _, shared := range forTests {
			if imports(f, shared) {
				more, err := filepath.Glob(filepath.Join(s.root, shared, "*.go"))
				if err != nil {
					return err
				}
				for _, m := range more {
					if !slices.Contains(paths, m) {
						paths = append(paths, m)
					}
				}
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if text, err := strconv.Unquote(lit.Value); err == nil {
					literals[strings.ReplaceAll(text, " ", "_")] = true
				}
			}
			return true
		})
	}
	if !found {
		return fmt.Errorf("package %s has no %s", dir, name)
	}
	if sub != "" {
		for _, part := range strings.Split(sub, "/") {
			if !literals[part] {
				return fmt.Errorf("package %s names no subtest %q", dir, part)
			}
		}
	}
	return nil
}

// check says what is wrong with a row, ids apart.
func (s *sources) check(r row) (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !idForm.MatchString(r.id) {
		bad("the id is not of words joined by -, in backquotes")
	}
	if len(r.rule) < 20 {
		bad("there is no rule")
	}
	not := strings.HasPrefix(strings.ToLower(r.show), "n")
	if r.where != "-" || !not {
		for w := range strings.SplitSeq(r.where, ", ") {
			m := whereForm.FindStringSubmatch(w)
			if m == nil {
				bad("%q is not a file and what it declares, in backquotes", w)
				continue
			}
			if ok, err := s.declares(m[1], m[2]); err != nil || !ok {
				bad("%s does not declare %s (%v)", m[1], m[2], err)
			}
		}
	}
	if not {
		if !notForm.MatchString(r.show) {
			bad("%q: a row without a test says \"not applicable: \" and why", r.show)
		}
		return errs
	}
	for name := range strings.SplitSeq(r.show, ", ") {
		m := testForm.FindStringSubmatch(name)
		if m == nil {
			bad("%q is not a package and a test in it, in backquotes", name)
			continue
		}
		if err := s.hasTest(m[1], m[2], m[3]); err != nil {
			bad("%v", err)
		}
	}
	return errs
}

// checkConformance says everything that is wrong with the table in text.
func checkConformance(text, root string) (rows []row, errs []error) {
	rows, errs = parseRows(text)
	s := &sources{root: root, files: make(map[string]*ast.File)}
	first := map[string]int{}
	for _, r := range rows {
		for _, err := range s.check(r) {
			errs = append(errs, fmt.Errorf("line %d, %s: %w", r.line, r.id, err))
		}
		if at, ok := first[r.id]; ok {
			errs = append(errs, fmt.Errorf("line %d: %s is the id of line %d already", r.line, r.id, at))
		}
		first[r.id] = r.line
	}
	return rows, errs
}

// Every row names tests that exist, or says why there is none.
func TestConformanceTable(t *testing.T) {
	const path = "../../docs/conformance.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rows, errs := checkConformance(string(text), "../..")
	for _, err := range errs {
		t.Errorf("docs/conformance.md: %v", err)
	}
	// The specification has more rules than that; fewer rows mean that a table
	// is not seen.
	if len(rows) < 100 {
		t.Errorf("%d rows only", len(rows))
	}
}

// The check above can fail: each of these rows has one thing wrong with it.
func TestConformanceTableIsChecked(t *testing.T) {
	const good = "| `a-rule` | A rule of the specification, in words. | `internal/rules/conformance_test.go parseRows` | `internal/rules TestConformanceTable` |"
	table := func(rows ...string) string {
		return conformanceHead + "\n|---|---|---|---|\n" + strings.Join(rows, "\n") + "\n"
	}
	if rows, errs := checkConformance(table(good), "../.."); len(rows) != 1 || len(errs) != 0 {
		t.Fatal(rows, errs)
	}
	if _, errs := checkConformance(table(strings.Replace(good, "`internal/rules TestConformanceTable`", "not applicable: the rule is the transport's", 1)), "../.."); len(errs) != 0 {
		t.Fatal(errs)
	}
	for name, c := range map[string]struct{ text, want string }{
		"no test":           {table(strings.Replace(good, "`internal/rules TestConformanceTable`", "", 1)), "is not a package and a test"},
		"test that is not":  {table(strings.Replace(good, "TestConformanceTable", "TestNobodyWrote", 1)), "has no TestNobodyWrote"},
		"no such package":   {table(strings.Replace(good, "internal/rules Test", "internal/nowhere Test", 1)), "has no tests"},
		"subtest":           {table(strings.Replace(good, "TestConformanceTable", "TestConformanceTable/that_nobody"+"_wrote", 1)), "names no subtest"},
		"twice":             {table(good, good), "is the id of line 3 already"},
		"no id":             {table(strings.Replace(good, "`a-rule`", "", 1)), "the id is not"},
		"no rule":           {table(strings.Replace(good, "A rule of the specification, in words.", "", 1)), "there is no rule"},
		"code that is not":  {table(strings.Replace(good, "parseRows", "parseColumns", 1)), "does not declare parseColumns"},
		"n/a":               {table(strings.Replace(good, "`internal/rules TestConformanceTable`", "n/a", 1)), "a row without a test says"},
		"no reason":         {table(strings.Replace(good, "`internal/rules TestConformanceTable`", "not applicable:", 1)), "a row without a test says"},
		"Not applicable":    {table(strings.Replace(good, "`internal/rules TestConformanceTable`", "Not applicable: the rule is the transport's", 1)), "a row without a test says"},
		"a column too few":  {table("| `b-rule` | A rule of the specification. | - |"), "3 columns, not 4"},
		"some other table":  {"| id | rule |\n" + good + "\n", "a table whose head is not"},
		"no code, but test": {table(strings.Replace(good, "`internal/rules/conformance_test.go parseRows`", "-", 1)), "is not a file and what it declares"},
	} {
		_, errs := checkConformance(c.text, "../..")
		if len(errs) == 0 || !strings.Contains(errs[0].Error(), c.want) {
			t.Errorf("%s: %v does not say %q", name, errs, c.want)
		}
	}
}
