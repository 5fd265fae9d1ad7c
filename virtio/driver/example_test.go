package driver_test

import (
	"encoding/binary"
	"fmt"
	"log"

	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// A driver puts a write into a ring, and looks at the answer. The device is played by a few
// lines here; another process would share the memory.
func Example() {
	const (
		ringAt    = 0x10000 // guest addresses
		scratchAt = ringAt + 0x1000
		dataAt    = ringAt + 0x2000
	)
	mem, err := guestmem.New([]*guestmem.Region{guestmem.Heap(guestmem.RegionDesc{GuestAddr: ringAt, Size: 1 << 16})})
	if err != nil {
		log.Fatal(err)
	}
	ring, err := driver.NewRing(mem, ringAt, 8, driver.FeatureEventIdx)
	if err != nil {
		log.Fatal(err)
	}
	write := driver.Blk{Type: driver.TypeOut, Sector: 8, Scratch: scratchAt, Data: []driver.Buffer{{GuestAddr: dataAt, Len: 4096}}}
	head, err := ring.AddBlk(&write, 7)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the device wants to be notified:", ring.Publish())

	// The device has carried out the request: it writes the status behind the header, then a
	// used entry (id, length) and the used index.
	status, err := mem.Bytes(scratchAt+driver.HeaderBytes, driver.StatusBytes)
	if err != nil {
		log.Fatal(err)
	}
	used, err := mem.Bytes(ring.Config().Used, 4+8)
	if err != nil {
		log.Fatal(err)
	}
	status[0] = driver.StatusOK
	binary.LittleEndian.PutUint32(used[4:], uint32(head))
	binary.LittleEndian.PutUint32(used[8:], driver.StatusBytes)
	binary.LittleEndian.PutUint16(used[2:], 1)

	answer, ok := ring.Next()
	if !ok {
		log.Fatal("nothing is used: ", ring.Err())
	}
	got, _, err := ring.BlkResult(&write)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("request %d: %s\n", answer.Token, driver.StatusString(got))
	// Output:
	// the device wants to be notified: true
	// request 7: OK
}
