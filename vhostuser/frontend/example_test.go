package frontend_test

import (
	"bytes"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/zvhost/zvhost/vhostuser/frontend"
)

// A front-end connects to a back-end, opens its disk, appends to a zone and reads the data
// back from where the disk has put it.
func Example() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "disk.sock")
	end, err := frontend.ServeRAMDisk(path) // any vhost-user-blk back-end
	if err != nil {
		log.Fatal(err)
	}

	client, err := frontend.Dial(path)
	if err != nil {
		log.Fatal(err)
	}
	disk, err := frontend.Open(client, frontend.Options{})
	if err != nil {
		log.Fatal(err)
	}
	zone := uint64(disk.Config.ZoneSectors) // the second zone's first sector
	q := disk.Queue(0)
	data := bytes.Repeat([]byte("zone"), 128)
	for range 2 {
		sector, err := q.Append(data, zone)
		if err != nil {
			log.Fatal(err)
		}
		got := make([]byte, len(data))
		if err := q.Read(got, sector); err != nil {
			log.Fatal(err)
		}
		fmt.Printf("sector %d: %s…, as it was appended: %v\n", sector, got[:4], bytes.Equal(got, data))
	}
	zones, err := q.Report(zone, 1)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("the write pointer is at sector %d\n", zones[0].WP)
	if err := disk.Close(); err != nil {
		log.Fatal(err)
	}
	if err := end(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// sector 16: zone…, as it was appended: true
	// sector 17: zone…, as it was appended: true
	// the write pointer is at sector 18
}
