package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// The log of the kernel's log-writes device (drivers/md/dm-log-writes.c): a
// super block, then for each entry one sector that describes it and the data
// that was written. Our devices have sectors of 512 bytes.
const logMagic = 0x6a736677736872

// Flags of an entry.
const (
	entryFlush   = 1 << 0 // the disk's cache was flushed: all entries before it are durable
	entryFUA     = 1 << 1 // written through the cache
	entryDiscard = 1 << 2
	entryMark    = 1 << 3 // a message of ours
)

// An entry is one thing that reached the disk, or a mark.
type entry struct {
	flags   uint64
	sector  uint64 // on the disk, of 512 bytes
	sectors uint64
	data    int64  // byte in the log where the data is
	mark    string // of a mark
}

// plain says whether a power cut may take the entry back.
func (e *entry) plain() bool { return e.flags&(entryFlush|entryFUA|entryMark) == 0 }

// readLog reads the entries of a log whose device is gone, so that all of them
// are counted in its super block.
func readLog(f io.ReaderAt) ([]entry, error) {
	le := binary.LittleEndian
	var b [sectorBytes]byte
	if _, err := f.ReadAt(b[:], 0); err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	if le.Uint64(b[:]) != logMagic || le.Uint64(b[8:]) != 1 || le.Uint32(b[24:]) != sectorBytes {
		return nil, fmt.Errorf("log: no log of version 1 with sectors of %d bytes: % x", sectorBytes, b[:28])
	}
	entries := make([]entry, le.Uint64(b[16:]))
	at := int64(sectorBytes)
	for i := range entries {
		if _, err := f.ReadAt(b[:], at); err != nil {
			return nil, fmt.Errorf("log: entry %d of %d: %w", i, len(entries), err)
		}
		e := entry{sector: le.Uint64(b[:]), sectors: le.Uint64(b[8:]), flags: le.Uint64(b[16:])}
		at += sectorBytes
		e.data = at
		if n := le.Uint64(b[24:]); e.flags&entryMark != 0 && n <= sectorBytes-32 {
			e.mark = strings.TrimRight(string(b[32:][:n]), "\x00")
		}
		if e.flags&entryDiscard == 0 {
			at += int64(e.sectors) * sectorBytes
		}
		entries[i] = e
	}
	return entries, nil
}

const pageBytes = 4096

var zeroes [pageBytes]byte

// A disk is the content of a disk, by page; a page that is not there is zeroes.
type disk map[int64]*[pageBytes]byte

// write puts sectors of b at sector, those that keep names.
func (d disk) write(b []byte, sector uint64, keep func(n int) bool) {
	for n := 0; n*sectorBytes < len(b); n++ {
		if !keep(n) {
			continue
		}
		at := (int64(sector) + int64(n)) * sectorBytes
		page := d[at/pageBytes]
		if page == nil {
			page = new([pageBytes]byte)
			d[at/pageBytes] = page
		}
		copy(page[at%pageBytes:][:sectorBytes], b[n*sectorBytes:])
	}
}

func all(int) bool { return true }

// apply carries out an entry. A discard says nothing of what is read afterwards;
// here it leaves what was there.
func (d disk) apply(f io.ReaderAt, e *entry, keep func(n int) bool) error {
	if e.flags&(entryDiscard|entryMark) != 0 || e.sectors == 0 {
		return nil
	}
	b := make([]byte, e.sectors*sectorBytes)
	if _, err := f.ReadAt(b, e.data); err != nil {
		return fmt.Errorf("log: %d sectors of data at %d: %w", e.sectors, e.data, err)
	}
	d.write(b, e.sector, keep)
	return nil
}

// clone is a copy of d that shares nothing with it.
func (d disk) clone() disk {
	c := make(disk, len(d))
	for n, page := range d {
		dup := *page
		c[n] = &dup
	}
	return c
}

// copyWith is d with other's pages over it. The pages are shared.
func (d disk) copyWith(other disk) disk {
	c := make(disk, len(d)+len(other))
	for _, from := range []disk{d, other} {
		for n, page := range from {
			c[n] = page
		}
	}
	return c
}

// readDisk reads a sparse file.
func readDisk(path string) (disk, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d := disk{}
	b := make([]byte, 256*pageBytes)
	for at := int64(0); ; {
		// Whence 3 is SEEK_DATA.
		if at, err = f.Seek(at, 3); err != nil {
			return d, nil // ENXIO: no data behind
		}
		at = at / pageBytes * pageBytes
		n, err := f.ReadAt(b, at)
		for off := 0; off < n; off += pageBytes {
			if !bytes.Equal(b[off:off+pageBytes], zeroes[:]) {
				page := [pageBytes]byte(b[off:])
				d[(at+int64(off))/pageBytes] = &page
			}
		}
		if at += int64(n); errors.Is(err, io.EOF) {
			return d, nil
		} else if err != nil {
			return nil, err
		}
	}
}

// save makes a sparse file of bytes bytes of d.
func (d disk) save(path string, bytes int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	err = f.Truncate(bytes)
	for n, page := range d {
		if err == nil {
			_, err = f.WriteAt(page[:], n*pageBytes)
		}
	}
	return errors.Join(err, f.Close())
}
