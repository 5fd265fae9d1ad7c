package rules

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// pages are the documents whose references to the code are checked.
var pages = []string{
	"README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/durability.md", "docs/front-ends.md",
	"docs/image-format.md", "docs/migration.md", "docs/restart.md", "docs/vduse.md", "docs/vfio-user.md", "docs/vhost-user.md",
}

var (
	quoted    = regexp.MustCompile("`([^`\n]+)`")
	fileForm  = regexp.MustCompile(`^[\w./-]+\.(go|sh)$`)
	funcForm  = regexp.MustCompile(`^\w+\.[A-Za-z]\w*$`)
	funcStart = regexp.MustCompile(`(?m)^func (?:\(\w* ?\*?(\w+)\) )?(\w+)\(`)
	mapForm   = regexp.MustCompile(`[\w*]+\.(?:go|sh)\b`)
	// The identifiers that the glossary gives for a term: (in the code: `x`, `y`).
	inCode      = regexp.MustCompile(`\(in the code: ([^)]*)\)`)
	wordForm    = regexp.MustCompile(`[A-Za-z_]\w*`)
	lineComment = regexp.MustCompile(`//.*`)
	otherForm   = regexp.MustCompile(`^(debug|guest|zvhost)\.`) // of the standard library; of files and names outside
)

// A tree knows the repository's files, and the functions that they declare.
type tree struct {
	files map[string]bool // by path, and by base name
	funcs map[string]bool // Type.Method, package.Function
	words map[string]bool // identifiers of code that is no test
}

func readTree(t *testing.T, root string) *tree {
	t.Helper()
	out := &tree{files: map[string]bool{}, funcs: map[string]bool{}, words: map[string]bool{}}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if err == nil && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "testdata") {
				return fs.SkipDir
			}
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		out.files[name], out.files[d.Name()] = true, true
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range funcStart.FindAllStringSubmatch(string(b), -1) {
			owner := m[1]
			if owner == "" {
				owner = filepath.Base(filepath.Dir(name))
			}
			out.funcs[owner+"."+m[2]] = true
		}
		if !strings.HasSuffix(name, "_test.go") {
			for _, word := range wordForm.FindAllString(lineComment.ReplaceAllString(string(b), ""), -1) {
				out.words[word] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// missing are the files and functions that text names in backquotes and the tree does
// not have.
func (tr *tree) missing(text string) (names []string) {
	for _, m := range quoted.FindAllStringSubmatch(text, -1) {
		switch name := m[1]; {
		case fileForm.MatchString(name):
			if !tr.files[strings.TrimPrefix(name, "./")] {
				names = append(names, name)
			}
		case funcForm.MatchString(name) && !otherForm.MatchString(name) && !tr.files[name]:
			if !tr.funcs[name] {
				names = append(names, name)
			}
		}
	}
	return names
}

// stale are the identifiers that a glossary in text gives for terms, and that the code
// does not have any more.
func (tr *tree) stale(text string) (names []string) {
	for _, m := range inCode.FindAllStringSubmatch(text, -1) {
		for _, name := range quoted.FindAllStringSubmatch(m[1], -1) {
			if !tr.words[name[1]] {
				names = append(names, name[1])
			}
		}
	}
	return names
}

// The documents name files and functions that exist: whoever moves or renames one changes
// the page in the same commit.
func TestDocumentsNameTheCode(t *testing.T) {
	tr := readTree(t, "../..")
	for _, page := range pages {
		text, err := os.ReadFile(filepath.Join("../..", page))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range tr.missing(string(text)) {
			t.Errorf("%s names %s, which does not exist", page, name)
		}
		for _, name := range tr.stale(string(text)) {
			t.Errorf("%s: the code has no %s: leave it out where the code has the term itself", page, name)
		}
	}
}

// The check above can fail.
func TestDocumentsNameTheCodeIsChecked(t *testing.T) {
	tr := readTree(t, "../..")
	const good = "`internal/rules/docs_test.go`, `docs_test.go`, `tree.missing`, `rules.readTree`"
	if names := tr.missing(good); len(names) != 0 {
		t.Errorf("%q are there", names)
	}
	if names := tr.stale("(in the code: `append`, `nowhereAtAll`)"); len(names) != 1 {
		t.Errorf("of two identifiers %q are missing", names)
	}
	for _, bad := range []string{"`internal/rules/nowhere.go`", "`nowhere.go`", "`integration/nowhere.sh`", "`tree.nowhere`", "`nowhere.missing`"} {
		if len(tr.missing(bad)) != 1 {
			t.Errorf("%s does not exist, and was not found missing", bad)
		}
	}
}

// theMap is the tree that docs/architecture.md shows.
func theMap(t *testing.T, page string) string {
	t.Helper()
	_, rest, ok := strings.Cut(page, "\n## The map\n")
	shown, _, ok2 := strings.Cut(rest, "\nImports point one way")
	if !ok || !ok2 {
		t.Fatal("docs/architecture.md has no map before \"Imports point one way\"")
	}
	return shown
}

// unmapped is what is wrong with a map of a tree: files that do not exist, and packages
// that it does not show.
func (tr *tree) unmapped(shown string, dirs []string) (wrong []string) {
	for _, name := range mapForm.FindAllString(shown, -1) {
		found := tr.files[name]
		for file := range tr.files {
			match, err := filepath.Match(name, filepath.Base(file))
			found = found || err == nil && match
		}
		if !found {
			wrong = append(wrong, name+" does not exist")
		}
	}
	for _, dir := range dirs {
		if !strings.Contains(shown, filepath.Base(dir)+"/") {
			wrong = append(wrong, dir+" is not shown")
		}
	}
	return wrong
}

// The map shows every package, and no file that does not exist.
func TestMapShowsTheTree(t *testing.T) {
	page, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for _, p := range packages(t) {
		dirs = append(dirs, p.name())
	}
	tr, shown := readTree(t, "../.."), theMap(t, string(page))
	for _, wrong := range tr.unmapped(shown, dirs) {
		t.Errorf("docs/architecture.md, The map: %s", wrong)
	}
	for _, bad := range []string{"nowhere.go", "nowhere_*.go", "nowhere.sh"} {
		if len(tr.unmapped(bad, nil)) != 1 {
			t.Errorf("%s does not exist, and was not found missing", bad)
		}
	}
	if len(tr.unmapped(shown, []string{"internal/nowhere"})) != 1 {
		t.Error("a package that is not shown was not found missing")
	}
}
