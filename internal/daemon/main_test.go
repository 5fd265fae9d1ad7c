package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/zvhost/zvhost/backend/image"
	"github.com/zvhost/zvhost/backend/zone"
	"github.com/zvhost/zvhost/internal/testleak"
)

// asHanging makes the test binary be a daemon whose disk hangs.
const asHanging = "DAEMON_TEST_AS_HANGING"

func TestMain(m *testing.M) {
	if what := os.Getenv(asFrontEnd); what != "" {
		if err := playFrontEnd(what); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(asHanging) != "" {
		log := logrus.New()
		ctx, _ := UntilSignal(context.Background(), log)
		log.Info("up")
		<-ctx.Done()
		select {} // what is in flight never ends
	}
	testleak.Main(m)
}

// testGeometry is a small zoned disk: 16 zones of 64 KiB.
var testGeometry = zone.Geometry{CapacitySectors: 2048, ZoneSectors: 128}

// testImage makes an image of testGeometry.
func testImage(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.zvh")
	if err := image.Create(path, testGeometry); err != nil {
		t.Fatal(err)
	}
	return path
}

// socketDir is a folder with a name short enough for sockets in it, whatever
// the test is called.
func socketDir(t *testing.T) string {
	t.Helper()
	t.Chdir(t.TempDir())
	return "."
}
