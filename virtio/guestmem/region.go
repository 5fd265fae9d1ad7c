package guestmem

import (
	"fmt"
	"math"
	"unsafe"

	"golang.org/x/sys/unix"
)

// RegionDesc describes one region of guest memory, as the messages
// SET_MEM_TABLE and ADD_MEM_REG of the vhost-user protocol do. All fields are in
// bytes.
type RegionDesc struct {
	GuestAddr  uint64 // where the guest sees it: guest-physical
	Size       uint64 // more than zero
	UserAddr   uint64 // where the front-end has it mapped
	MmapOffset uint64 // where it starts in the file
}

// check refuses a region that is empty or wraps around the end of an address space.
func (d RegionDesc) check() error {
	switch {
	case d.Size == 0:
		return fmt.Errorf("memory region at guest address %#x is empty", d.GuestAddr)
	case d.GuestAddr+d.Size < d.GuestAddr:
		return fmt.Errorf("memory region at guest address %#x, %#x bytes, wraps around the guest's address space", d.GuestAddr, d.Size)
	case d.UserAddr+d.Size < d.UserAddr:
		return fmt.Errorf("memory region at user address %#x, %#x bytes, wraps around the front-end's address space", d.UserAddr, d.Size)
	case d.MmapOffset+d.Size < d.Size, d.MmapOffset+d.Size > math.MaxInt64:
		return fmt.Errorf("memory region at guest address %#x: offset %#x and %#x bytes lie outside any file", d.GuestAddr, d.MmapOffset, d.Size)
	}
	return nil
}

// A Region is one region of guest memory, mapped into this process. The caller of Map owns
// it, and calls Unmap once it is not used any more.
type Region struct {
	desc    RegionDesc
	mem     []byte // exactly the region
	mapping []byte // what Unmap releases: mem, rounded to pages
}

// Map maps the part of the file behind fd that d describes, shared, to be read and written.
// It refuses a region that is not completely inside the file. The caller keeps fd; the
// mapping does not need it.
func Map(fd int, d RegionDesc) (*Region, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("memory region at guest address %#x: fstat of its file: %w", d.GuestAddr, err)
	}
	if st.Size < 0 || uint64(st.Size) < d.MmapOffset+d.Size {
		return nil, fmt.Errorf("memory region at guest address %#x needs %#x bytes of its file from %#x, but the file has only %#x", d.GuestAddr, d.Size, d.MmapOffset, st.Size)
	}
	page, err := filePageSize(fd)
	if err != nil {
		return nil, fmt.Errorf("memory region at guest address %#x: fstatfs of its file: %w", d.GuestAddr, err)
	}
	return mapPages(fd, d, page, unix.PROT_READ|unix.PROT_WRITE)
}

// MapUnsized is Map for the file of a driver in the kernel, which has no size: an access to what
// is not there faults. prot is as mmap(2) has it.
func MapUnsized(fd int, d RegionDesc, prot int) (*Region, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	return mapPages(fd, d, uint64(unix.Getpagesize()), prot)
}

// mapPages maps the region d, which was checked, in whole pages of the file.
func mapPages(fd int, d RegionDesc, page uint64, prot int) (*Region, error) {
	// mmap works in whole pages, and so does munmap on hugetlbfs (mm/hugetlb.c).
	lead := d.MmapOffset % page
	length := (lead + d.Size + page - 1) / page * page
	if length > math.MaxInt64 {
		return nil, fmt.Errorf("memory region at guest address %#x: %#x bytes are more than can be mapped", d.GuestAddr, d.Size)
	}
	mapping, err := unix.Mmap(fd, int64(d.MmapOffset-lead), int(length), prot, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("memory region at guest address %#x: mmap of %#x bytes at %#x of its file: %w", d.GuestAddr, length, d.MmapOffset-lead, err)
	}
	// A core dump of this process must not contain a guest's memory. Best effort: a kernel
	// without core dumps refuses the advice.
	_ = unix.Madvise(mapping, unix.MADV_DONTDUMP)
	_ = unix.Madvise(mapping, unix.MADV_DONTFORK) // see internal/foreign: another process must not keep it
	return &Region{desc: d, mem: mapping[lead : lead+d.Size : lead+d.Size], mapping: mapping}, nil
}

// filePageSize is the page size in bytes for mapping the file behind fd: that of its huge
// pages on hugetlbfs, else that of the machine.
func filePageSize(fd int) (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return 0, err
	}
	if fs.Type == unix.HUGETLBFS_MAGIC && fs.Bsize > 0 {
		return uint64(fs.Bsize), nil
	}
	return uint64(unix.Getpagesize()), nil
}

// MayWait reports whether a store to the mapped file behind fd may wait for its file system:
// one that keeps its files on a disk can be frozen, and its disk can hang.
func MayWait(fd int) bool {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return true
	}
	return fs.Type != unix.TMPFS_MAGIC && fs.Type != unix.HUGETLBFS_MAGIC && fs.Type != unix.RAMFS_MAGIC
}

// Heap makes a region of ordinary Go memory, aligned to 4096 bytes, for tests: the race
// detector watches it, but not a mapping. New checks d.
func Heap(d RegionDesc) *Region {
	const page = 4096
	// A page more than needed, so that it can be aligned and a shared field at
	// its very end has its whole word (shared.go).
	b := make([]byte, d.Size+2*page)
	lead := -uintptr(unsafe.Pointer(&b[0])) & (page - 1)
	return &Region{desc: d, mem: b[uint64(lead) : uint64(lead)+d.Size : uint64(lead)+d.Size]}
}

// Desc returns the description that the region was made from.
func (r *Region) Desc() RegionDesc { return r.desc }

// Unmap releases the memory; a second call does nothing. No slice, vector or shared field
// of it may be in use any more, in this process or by I/O in flight.
func (r *Region) Unmap() error {
	mapping := r.mapping
	r.mem, r.mapping = nil, nil
	if mapping == nil {
		return nil
	}
	if err := unix.Munmap(mapping); err != nil {
		return fmt.Errorf("memory region at guest address %#x: munmap: %w", r.desc.GuestAddr, err)
	}
	return nil
}
