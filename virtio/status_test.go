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

// No error of a disk is missing here: every exported error variable of backend and the
// packages below it is in the table or in the list of those that no request ends with.
func TestStatusIsExhaustive(t *testing.T) {
	neverInARequest := map[string]bool{
		"ErrNotImage": true, "ErrUnfit": true, "ErrDamaged": true, // of opening a disk
		"ErrDamagedFaults": true, "ErrUnknownFaults": true, // likewise
		"ErrNoSpan": true, // of a set of zones that a user typed
		"ErrQuit":   true, // of a request that stays in flight
	}
	var files []string
	for _, pattern := range []string{"../backend/*.go", "../backend/*/*.go", "../backend/*/*/*.go"} {
		more, err := filepath.Glob(pattern)
		if err != nil || len(more) == 0 {
			t.Fatal(pattern, err)
		}
		files = append(files, more...)
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
						t.Errorf("%s of %s has no status here", id.Name, name)
					}
				}
			}
		}
	}
	if found != len(wantStatus) {
		t.Errorf("%d errors found in backend and below, %d expected", found, len(wantStatus))
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
