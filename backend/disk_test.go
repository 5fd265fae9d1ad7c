package backend

import (
	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/disktest"
)

func openDisk(t disktest.TB, path string) disk.Disk {
	t.Helper()
	d, err := Open(path, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}
