package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// A method whose name ends in Locked needs a lock that its caller holds. So it is called
// only where a lock was taken above in the same function, or in another method of that
// kind.
func TestLockedMethodsAreCalledWithTheLock(t *testing.T) {
	calls := 0
	for _, p := range packages(t) {
		for _, name := range p.GoFiles {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range f.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if !ok || fn.Body == nil {
					continue
				}
				n, bad := lockedCalls(fn)
				calls += n
				for _, call := range bad {
					t.Errorf("%v: %s is called, and %s has taken no lock", fset.Position(call.Pos()), call.Sel.Name, fn.Name.Name)
				}
			}
		}
	}
	if calls < 50 {
		t.Errorf("%d calls of such methods were looked at: this test does not see them", calls)
	}
}

// lockedCalls counts the calls in fn of methods that need a lock, and returns those that
// are made without one.
func lockedCalls(fn *ast.FuncDecl) (calls int, bad []*ast.SelectorExpr) {
	held := strings.HasSuffix(fn.Name.Name, "Locked")
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		switch {
		case !ok:
		case sel.Sel.Name == "Lock" || sel.Sel.Name == "RLock":
			held = true
		case strings.HasSuffix(sel.Sel.Name, "Locked"):
			calls++
			if !held {
				bad = append(bad, sel)
			}
		}
		return true
	})
	return calls, bad
}

// The check finds what it is for.
func TestLockedCalls(t *testing.T) {
	const source = `package p
func (z *zone) free() { z.putLocked() }
func (z *zone) late() { z.putLocked(); z.mu.Lock() }
func (z *zone) held() { z.mu.Lock(); z.putLocked() }
func (z *zone) passLocked() { z.putLocked() }
`
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range f.Decls {
		fn := d.(*ast.FuncDecl)
		want := map[string]int{"free": 1, "late": 1}[fn.Name.Name]
		if n, bad := lockedCalls(fn); n != 1 || len(bad) != want {
			t.Errorf("%s: %d calls, %d without the lock, want %d", fn.Name.Name, n, len(bad), want)
		}
	}
}
