package virtio_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/internal/iovec"
	"github.com/zvhost/zvhost/virtio"
	"github.com/zvhost/zvhost/virtio/driver"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// Guest memory of FuzzChain: two regions that follow each other.
const (
	fuzzSize   = 16
	fuzzSeam   = 0x4000
	fuzzEnd    = 0x8000
	fuzzTable  = fuzzSeam - 0x100 // an indirect table across the seam
	fuzzData   = 0x2000           // headers, segments, data
	fuzzTables = 32               // descriptors in the table
	fuzzHeads  = 6
)

// fuzzDesc takes a descriptor of 6 bytes off data: address and length (16 bits
// each), flags, next. Three more flags reach the values that 16 bits do not.
func fuzzDesc(data []byte) (desc, []byte) {
	var b [6]byte
	data = data[copy(b[:], data):]
	d := desc{
		addr:  uint64(binary.LittleEndian.Uint16(b[0:])),
		len:   uint32(binary.LittleEndian.Uint16(b[2:])),
		flags: uint16(b[4] & 7),
		next:  uint16(b[5]),
	}
	if b[4]&0x10 != 0 {
		d.addr = ^d.addr
	}
	if b[4]&0x20 != 0 {
		d.len <<= 16
	}
	if b[4]&0x40 != 0 {
		d.next <<= 8
	}
	return d, data
}

// FuzzChain lets a guest put anything into descriptors, indirect tables and
// requests. Whatever it is: nothing but the device-writable part of the chain
// changes, every vector lies in guest memory, the sums are right, the length
// claims no more than there is, and each chain that can be taken gets a status.
func FuzzChain(f *testing.F) {
	for _, seed := range chainSeeds() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		mem, err := guestmem.New([]*guestmem.Region{
			guestmem.Heap(guestmem.RegionDesc{GuestAddr: 0, Size: fuzzSeam, UserAddr: userDelta}),
			guestmem.Heap(guestmem.RegionDesc{GuestAddr: fuzzSeam, Size: fuzzEnd - fuzzSeam, UserAddr: userDelta + fuzzSeam}),
		})
		if err != nil {
			t.Fatal(err)
		}
		low, _ := mem.Bytes(0, fuzzSeam)
		high, _ := mem.Bytes(fuzzSeam, fuzzEnd-fuzzSeam)

		var mode byte
		if len(data) > 0 {
			mode, data = data[0], data[1:]
		}
		features := driver.FeatureVersion1
		if mode&1 != 0 {
			features |= driver.FeatureIndirectDesc
		}
		if mode&2 != 0 {
			features |= driver.FeatureEventIdx
		}
		dk := plainDisk()
		if mode&4 != 0 {
			dk = zonedDiskWithZeroes()
		}
		blk := newBlk(t, dk)
		if mode&8 != 0 {
			blk.Reset()
		}
		if mode&16 != 0 {
			_ = blk.WriteConfig([]byte{0}, driver.WritebackOffset)
		}
		packed := mode&32 != 0
		if packed {
			features |= driver.FeatureRingPacked
		}
		ring, err := driver.NewRing(mem, 0, fuzzSize, features)
		if err != nil {
			t.Fatal(err)
		}
		cfg := ringConfig(mem, ring, features)
		cfg.Answers = mode&64 != 0
		q, err := virtio.NewQueue(cfg)
		if err != nil {
			t.Fatal(err)
		}

		var heads [fuzzHeads]byte
		data = data[copy(heads[:], data):]
		var d desc
		for i := range uint16(fuzzSize) {
			d, data = fuzzDesc(data)
			if packed {
				ring.SetPackedDesc(i, d.addr, d.len, d.next, d.flags|fAvail)
				continue
			}
			ring.SetDesc(i, d.addr, d.len, d.flags, d.next)
		}
		table := make([]byte, 16*fuzzTables)
		for i := range fuzzTables {
			d, data = fuzzDesc(data)
			if packed {
				d.flags, d.next = d.next, d.flags
			}
			putDesc(table[16*i:], d)
		}
		copy(low[fuzzTable:], table)
		copy(high, table[fuzzSeam-fuzzTable:])
		copy(low[fuzzData:fuzzTable], data)
		if !packed {
			for _, h := range heads {
				ring.PutAvail(uint16(h & 0x1f))
			}
			ring.Publish()
		}

		var r virtio.BlkRequest
		seen := map[uint16]bool{}
		for n := 0; ; n++ {
			ok, err := q.Pop(&r.Chain)
			if !ok {
				if err == nil && n != fuzzHeads && !packed {
					t.Fatalf("%d chains of %d", n, fuzzHeads)
				}
				break
			}
			if seen[r.Chain.Head] {
				t.Fatalf("head %d twice", r.Chain.Head)
			}
			seen[r.Chain.Head] = true
			if cfg.Answers && r.Chain.InBytes == 0 {
				t.Fatal("a chain that has no place for a status was taken")
			}
			checkRequest(t, blk, &r, low, high)
		}
		for h := range seen {
			q.Push(h, 0)
		}
		q.Publish()
		q.EnableKicks()
	})
}

func checkRequest(t *testing.T, blk *virtio.Blk, r *virtio.BlkRequest, low, high []byte) {
	t.Helper()
	c := &r.Chain
	if got := inside(t, c.Out, low, high); got != c.OutBytes {
		t.Fatalf("Out of %d bytes, OutBytes %d", got, c.OutBytes)
	}
	if got := inside(t, c.In, low, high); got != c.InBytes {
		t.Fatalf("In of %d bytes, InBytes %d", got, c.InBytes)
	}
	if len(c.Out)+len(c.In) > virtio.MaxChain || (c.Err != nil && c.OutBytes+c.InBytes > 1) {
		t.Fatalf("%d pieces, %v", len(c.Out)+len(c.In), c.Err)
	}
	in := slices.Clone(c.In)
	if len(in) > 0 { // a status that nobody writes shows
		last := in[len(in)-1]
		iovec.Bytes(last)[last.Len-1] = driver.StatusNone
	}
	before := [2][]byte{bytes.Clone(low), bytes.Clone(high)}

	if blk.Decode(r) {
		if got := inside(t, r.Iov, low, high); got != r.Bytes || r.Err != nil {
			t.Fatalf("%s of %d bytes, Bytes %d, %v", r.Op, got, r.Bytes, r.Err)
		}
		if (r.Op == disk.OpDiscard || r.Op == disk.OpWriteZeroes) != (len(r.Ranges) > 0) {
			t.Fatalf("%s of %d ranges", r.Op, len(r.Ranges))
		}
		switch {
		case r.Sector&1 != 0:
			r.Err = disk.ErrIO
		case r.Op == disk.OpRead:
			for _, v := range r.Iov {
				for i := range iovec.Bytes(v) {
					iovec.Bytes(v)[i] = 0x5a
				}
			}
		case r.Op == disk.OpAppend:
			r.AppendSector = ^uint64(0)
		}
	}
	written := r.Complete()
	if uint64(written) > c.InBytes {
		t.Fatalf("%d bytes claimed of %d", written, c.InBytes)
	}
	if len(in) > 0 {
		last := in[len(in)-1]
		if status := iovec.Bytes(last)[last.Len-1]; status != virtio.StatusOf(r.Err) {
			t.Fatalf("status %d for %v", status, r.Err)
		}
	}
	// Undo what was allowed to change, and nothing may be left.
	was := [2][]byte{bytes.Clone(low), bytes.Clone(high)}
	for _, v := range in {
		for i, half := range [2][]byte{low, high} {
			if at := offset(v, half); at >= 0 {
				copy(iovec.Bytes(v), before[i][at:])
			}
		}
	}
	if !bytes.Equal(low, before[0]) || !bytes.Equal(high, before[1]) {
		t.Fatal("memory outside the device-writable part was changed")
	}
	copy(low, was[0])
	copy(high, was[1])
}

// inside is the length of vectors, all of which must lie in memory.
func inside(t *testing.T, iov []unix.Iovec, low, high []byte) (n uint64) {
	t.Helper()
	for _, v := range iov {
		n += v.Len
		if v.Len == 0 || (offset(v, low) < 0 && offset(v, high) < 0) {
			t.Fatalf("a vector of %d bytes lies outside guest memory", v.Len)
		}
	}
	return n
}

// offset is where a vector lies in b, -1 if it does not.
func offset(v unix.Iovec, b []byte) int {
	at := uintptr(unsafe.Pointer(v.Base)) - uintptr(unsafe.Pointer(&b[0]))
	if uint64(at) >= uint64(len(b)) || uint64(at)+v.Len > uint64(len(b)) {
		return -1
	}
	return int(at)
}

// chainSeeds are good requests of every type, direct and indirect.
func chainSeeds() [][]byte {
	put := func(b []byte, addr, n int, flags, next byte) []byte {
		return append(b, byte(addr), byte(addr>>8), byte(n), byte(n>>8), flags, next)
	}
	var seeds [][]byte
	for _, typ := range []uint32{driver.TypeIn, driver.TypeOut, driver.TypeFlush, driver.TypeGetID, driver.TypeDiscard, driver.TypeWriteZeroes,
		driver.TypeZoneAppend, driver.TypeZoneReport, driver.TypeZoneReset, 77} {
		for _, mode := range []byte{3, 4 | 3, 16 | 4, 32 | 7, 64 | 3, 64 | 32 | 7} {
			s := []byte{mode, 0, 4, 8, 31, 31, 31}
			n := map[uint32]int{driver.TypeGetID: 20, driver.TypeDiscard: 32, driver.TypeWriteZeroes: 32, driver.TypeZoneReport: 200}[typ]
			if n == 0 {
				n = 512
			}
			dataFlag := byte(fNext)
			if driver.DataIsWritten(typ) {
				dataFlag |= fWrite
			}
			// 0: as Linux. 4: across the seam, split header. 8: indirect.
			s = put(s, fuzzData, 16, fNext, 1)
			s = put(s, fuzzData+64, n, dataFlag, 2)
			s = put(s, fuzzData+32, 9, fWrite, 0)
			s = put(s, 0, 0, 0, 0)
			s = put(s, fuzzData, 5, fNext, 5)
			s = put(s, fuzzData+5, 11, fNext, 6)
			s = put(s, fuzzSeam-n/2, n, dataFlag, 7)
			s = put(s, fuzzData+1024, 1, fWrite, 0)
			s = put(s, fuzzTable, 16*fuzzTables, fIndirect, 0)
			for range fuzzSize - 9 {
				s = put(s, 0, 0, 0, 0)
			}
			for i := range fuzzTables - 2 {
				flags, at, k := byte(fNext), fuzzData+64+i, 1
				if i == 0 {
					at, k = fuzzData, 16
				} else if dataFlag&fWrite != 0 {
					flags |= fWrite
				}
				s = put(s, at, k, flags, byte(i+1))
			}
			s = put(s, fuzzData+1024, 8, fNext|fWrite, fuzzTables-1)
			s = put(s, fuzzData+1040, 9, fWrite, 0)
			header := make([]byte, driver.HeaderBytes)
			driver.PutHeader(header, typ, 2048)
			s = append(s, header...)
			seeds = append(seeds, s)
		}
	}
	return seeds
}
