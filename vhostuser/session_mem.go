package vhostuser

import (
	"fmt"

	"github.com/zvhost/zvhost/internal/foreign"
	"github.com/zvhost/zvhost/virtio/guestmem"
)

// The messages that change the guest's memory. New regions are mapped and
// checked while the rings still run on the old ones; only the exchange itself
// stops them. What is wrong with a new table so leaves the old one in force.

// mustShare is what to do about a front-end that has no memory to share.
const mustShare = "the guest's memory must be shared (QEMU: -object memory-backend-memfd,id=mem,size=...,share=on and -machine memory-backend=mem; cloud-hypervisor: --memory shared=on)"

// noMemory is what to do where a request names memory that the front-end has not shared.
var noMemory = fmt.Sprintf("give every memory backend of the guest share=on, those of DIMMs that are plugged in later too, and plug in no more of them than there are memory slots (%d)", MaxMemSlots)

func (s *Session) setMemTable(m *Message) ([]byte, error) {
	descs, err := ParseMemTable(m.Payload)
	if err != nil {
		return nil, err
	}
	switch n := len(m.Files) + m.Surplus; {
	case n == 0:
		return nil, fmt.Errorf("no descriptor came along with %d regions: %s", len(descs), mustShare)
	case n != len(descs):
		return nil, fmt.Errorf("%d descriptors came along with %d regions", n, len(descs))
	}
	var fresh []region
	for i, d := range descs {
		r, err := mapRegion(m.Take(i), d)
		if err != nil {
			s.freeRegions(fresh)
			return nil, err
		}
		fresh = append(fresh, r)
	}
	mem, err := memoryOf(fresh)
	if err != nil {
		s.freeRegions(fresh)
		return nil, err
	}
	old := s.regions
	s.pauseAll()
	s.install(fresh, mem)
	s.freeRegions(old)
	return nil, s.resumeAll()
}

func (s *Session) getMaxMemSlots(*Message) ([]byte, error) {
	return AppendU64(nil, MaxMemSlots), nil
}

func (s *Session) addMemReg(m *Message) ([]byte, error) {
	d, err := ParseMemReg(m.Payload)
	if err != nil {
		return nil, err
	}
	if len(s.regions) >= MaxMemSlots {
		return nil, fmt.Errorf("all %d memory slots are in use", MaxMemSlots)
	}
	r, err := mapRegion(m.Take(0), d)
	if err != nil {
		return nil, err
	}
	regions := append(s.regions[:len(s.regions):len(s.regions)], r)
	mem, err := memoryOf(regions)
	if err != nil {
		s.freeRegions(regions[len(regions)-1:])
		return nil, err
	}
	s.pauseAll()
	s.install(regions, mem)
	return nil, s.resumeCovered()
}

// remMemReg removes a region. A ring that is left without memory waits for a
// region that covers it again: QEMU replaces a region, for example when firmware
// makes a piece of it read-only, by removing it and adding the parts, and its
// rings are to survive that.
func (s *Session) remMemReg(m *Message) ([]byte, error) {
	d, err := ParseMemReg(m.Payload)
	if err != nil {
		return nil, err
	}
	at := -1
	for i := range s.regions {
		// The mmap offset is not part of a region's identity.
		have := s.regions[i].mem.Desc()
		if have.GuestAddr == d.GuestAddr && have.UserAddr == d.UserAddr && have.Size == d.Size {
			at = i
			break
		}
	}
	if at < 0 {
		return nil, fmt.Errorf("there is no region %s", showRegion(d))
	}
	gone := s.regions[at]
	regions := make([]region, 0, len(s.regions)-1)
	regions = append(append(regions, s.regions[:at]...), s.regions[at+1:]...)
	mem, err := memoryOf(regions)
	if err != nil {
		return nil, err
	}
	s.pauseAll()
	s.install(regions, mem)
	s.freeRegions([]region{gone})
	return nil, s.resumeCovered()
}

// mapRegion takes over file and maps it as d says.
func mapRegion(file *foreign.FD, d guestmem.RegionDesc) (region, error) {
	mem, err := guestmem.Map(file.Int(), d)
	if err != nil {
		_ = file.Close()
		return region{}, err
	}
	return region{file, mem}, nil
}

// memoryOf is the memory that regions make up, nil of none.
func memoryOf(regions []region) (*guestmem.Memory, error) {
	if len(regions) == 0 {
		return nil, nil
	}
	mapped := make([]*guestmem.Region, len(regions))
	for i, r := range regions {
		mapped[i] = r.mem
	}
	return guestmem.New(mapped)
}

// install makes regions the session's memory. No ring may run.
func (s *Session) install(regions []region, mem *guestmem.Memory) {
	s.regions, s.mem = regions, mem
	s.memoryGiven = s.memoryGiven || mem != nil
	s.warnOfStorage(regions)
	s.state.numRegions = uint32(len(regions))
	clear(s.state.regions[:])
	for i, r := range regions {
		s.state.regions[i] = r.mem.Desc()
	}
}

// warnOfStorage logs once that the guest's memory is in a file that is kept on a disk. A worker
// that stores into it waits for as long as the file system is frozen or its disk hangs, and so
// does all of this process as soon as it collects garbage.
func (s *Session) warnOfStorage(regions []region) {
	for _, r := range regions {
		if s.loggedSlowMemory || !guestmem.MayWait(r.file.Int()) {
			continue
		}
		s.loggedSlowMemory = true
		_, what := r.file.Inspect()
		s.warn("the guest's memory is %s, which keeps it on a disk: while that file system is frozen, or its disk does not answer, this process stands still, its control socket and the end of it too; share memory that is in no file of a disk (QEMU: memory-backend-memfd, or memory-backend-file with mem-path=/dev/shm)", what)
	}
}

// freeRegions unmaps regions and closes their descriptors. No ring may run on
// them.
func (s *Session) freeRegions(regions []region) {
	for _, r := range regions {
		if err := r.mem.Unmap(); err != nil {
			s.log(LevelWarn, "%v", err)
		}
		s.drop(&r.file)
	}
}

// freeBehind is freeRegions in the background. No ring runs on them any more.
func (s *Session) freeBehind(regions []region) {
	if s.opt.Behind == nil || len(regions) == 0 {
		s.freeRegions(regions)
		return
	}
	s.opt.Behind(func() {
		for i := range regions {
			regions[i].mem.Drain()
			s.freeRegions(regions[i : i+1])
		}
	})
}
