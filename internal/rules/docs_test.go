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
	"README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/durability.md", "docs/image-format.md",
	"docs/migration.md", "docs/restart.md", "docs/vhost-user.md",
}

var (
	quoted    = regexp.MustCompile("`([^`\n]+)`")
	fileForm  = regexp.MustCompile(`^[\w./-]+\.(go|sh)$`)
	funcForm  = regexp.MustCompile(`^\w+\.[A-Za-z]\w*$`)
	funcStart = regexp.MustCompile(`(?m)^func (?:\(\w* ?\*?(\w+)\) )?(\w+)\(`)
	otherForm = regexp.MustCompile(`^(debug|guest|zvhost)\.`) // of the standard library; of files and names outside
)

// A tree knows the repository's files, and the functions that they declare.
type tree struct {
	files map[string]bool // by path, and by base name
	funcs map[string]bool // Type.Method, package.Function
}

func readTree(t *testing.T, root string) *tree {
	t.Helper()
	out := &tree{files: map[string]bool{}, funcs: map[string]bool{}}
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
	}
}

// The check above can fail.
func TestDocumentsNameTheCodeIsChecked(t *testing.T) {
	tr := readTree(t, "../..")
	const good = "`internal/rules/docs_test.go`, `docs_test.go`, `tree.missing`, `rules.readTree`"
	if names := tr.missing(good); len(names) != 0 {
		t.Errorf("%q are there", names)
	}
	for _, bad := range []string{"`internal/rules/nowhere.go`", "`nowhere.go`", "`integration/nowhere.sh`", "`tree.nowhere`", "`nowhere.missing`"} {
		if len(tr.missing(bad)) != 1 {
			t.Errorf("%s does not exist, and was not found missing", bad)
		}
	}
}
