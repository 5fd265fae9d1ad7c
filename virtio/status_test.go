package virtio_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/virtio"
)

// "Device Operation": VIRTIO_BLK_S_*.
var wantStatus = map[string]struct {
	err    error
	status byte
}{
	"ErrIO":          {disk.ErrIO, 1},
	"ErrUnsupported": {disk.ErrUnsupported, 2},
	"ErrReadOnly":    {disk.ErrReadOnly, 1},
	"ErrRange":       {disk.ErrRange, 1},
	"ErrInvalid":     {zone.ErrInvalid, 3},
	"ErrUnaligned":   {zone.ErrUnaligned, 4},
	"ErrOpenLimit":   {zone.ErrOpenLimit, 5},
	"ErrActiveLimit": {zone.ErrActiveLimit, 6},
}

// Nothing that a disk ends a request with is missing here: every exported error
// variable of package backend is in the table or in the list of those that no
// request ends with.
func TestStatusIsExhaustive(t *testing.T) {
	neverInARequest := map[string]bool{"ErrNotImage": true, "ErrUnfit": true} // they are of opening a disk
	files, err := filepath.Glob("../backend/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	found := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, s := range g.Specs {
				for _, id := range s.(*ast.ValueSpec).Names {
					if !strings.HasPrefix(id.Name, "Err") || neverInARequest[id.Name] {
						continue
					}
					found++
					if _, ok := wantStatus[id.Name]; !ok {
						t.Errorf("backend.%s has no status here", id.Name)
					}
				}
			}
		}
	}
	if found != len(wantStatus) {
		t.Errorf("%d errors found in package backend, %d expected", found, len(wantStatus))
	}
}

func TestStatusOf(t *testing.T) {
	if s := virtio.StatusOf(nil); s != 0 {
		t.Errorf("success is %d", s)
	}
	for name, w := range wantStatus {
		wrapped := &disk.RequestError{Op: disk.OpWrite, Err: fmt.Errorf("%w: %w", w.err, unix.EIO)}
		for _, err := range []error{w.err, wrapped, fmt.Errorf("deeper: %w", wrapped)} {
			if s := virtio.StatusOf(err); s != w.status {
				t.Errorf("%s as %T is %d, not %d", name, err, s, w.status)
			}
		}
	}
	for _, err := range []error{errors.New("who knows"), unix.ENOSPC, unix.EOPNOTSUPP} {
		if s := virtio.StatusOf(err); s != virtio.BlkStatusIOErr {
			t.Errorf("%v is %d, not IOERR", err, s)
		}
	}
}
