package image_test

import (
	"testing"

	"github.com/zvhost/zvhost/backend"
	"github.com/zvhost/zvhost/backend/disk"
)

func openDisk(t *testing.T, path string) disk.Disk {
	t.Helper()
	d, err := backend.Open(path, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}
