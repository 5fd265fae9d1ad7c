package vfiouser

import "golang.org/x/sys/unix"

// The messages that ask what the device has, and those that access its regions.

func (s *Session) getInfo(m *Message) ([]byte, error) {
	i, err := ParseDeviceInfo(m.Payload)
	if err != nil {
		return nil, err
	}
	if err := checkArgsz(i.Argsz, deviceInfoSize); err != nil {
		return nil, err
	}
	return DeviceInfo{deviceInfoSize, DeviceReset | DevicePCI, uint32(len(s.info.Regions)), uint32(len(s.info.IRQs))}.Append(nil), nil
}

// checkArgsz checks how much of a reply the client accepts.
func checkArgsz(argsz, needed uint32) error {
	if argsz < needed {
		return refuse(unix.EINVAL, "argsz %d, the reply has %d bytes", argsz, needed)
	}
	return nil
}

func (s *Session) region(index uint32) (Region, error) {
	if index >= uint32(len(s.info.Regions)) {
		return Region{}, refuse(unix.EINVAL, "there is no region %d, they are numbered from 0 to %d", index, len(s.info.Regions)-1)
	}
	return s.info.Regions[index], nil
}

func (s *Session) getRegionInfo(m *Message) ([]byte, error) {
	i, err := ParseRegionInfo(m.Payload)
	if err != nil {
		return nil, err
	}
	if err := checkArgsz(i.Argsz, regionInfoSize); err != nil {
		return nil, err
	}
	r, err := s.region(i.Index)
	if err != nil {
		return nil, err
	}
	return RegionInfo{Argsz: regionInfoSize, Flags: r.Flags, Index: i.Index, Size: r.Size}.Append(nil), nil
}

func (s *Session) getRegionIOFDs(m *Message) ([]byte, error) {
	i, err := ParseRegionIOFDs(m.Payload)
	if err != nil {
		return nil, err
	}
	if err := checkArgsz(i.Argsz, regionIOFDsSize); err != nil {
		return nil, err
	}
	if i.Flags != 0 || i.Count != 0 {
		return nil, refuse(unix.EINVAL, "flags %#x and count %d, both have to be 0", i.Flags, i.Count)
	}
	if _, err := s.region(i.Index); err != nil {
		return nil, err
	}
	return RegionIOFDs{Argsz: regionIOFDsSize, Index: i.Index}.Append(nil), nil
}

func (s *Session) getIRQInfo(m *Message) ([]byte, error) {
	i, err := ParseIRQInfo(m.Payload)
	if err != nil {
		return nil, err
	}
	if err := checkArgsz(i.Argsz, irqInfoSize); err != nil {
		return nil, err
	}
	irq, err := s.irq(i.Index)
	if err != nil {
		return nil, err
	}
	return IRQInfo{irqInfoSize, irq.Flags, i.Index, irq.Count}.Append(nil), nil
}

// access checks the range of a read or write.
func (s *Session) access(a *Access, flag uint32) error {
	r, err := s.region(a.Region)
	switch {
	case err != nil:
		return err
	case a.Count == 0 || a.Count > MaxData:
		return refuse(unix.EINVAL, "count %d, it can be 1 to %d", a.Count, MaxData)
	case a.Offset > r.Size || uint64(a.Count) > r.Size-a.Offset:
		return refuse(unix.EINVAL, "the region ends at %#x", r.Size)
	case r.Flags&flag == 0:
		return refuse(unix.EPERM, "the region does not allow it")
	}
	return nil
}

func (s *Session) regionRead(m *Message) ([]byte, error) {
	a, err := ParseAccess(m.Payload)
	if err != nil {
		return nil, err
	}
	if err := s.access(&a, RegionReadable); err != nil {
		return nil, err
	}
	if a.Count > s.state.maxData {
		return nil, refuse(unix.EINVAL, "count %d, and the client's max_data_xfer_size is %d", a.Count, s.state.maxData)
	}
	reply := a.Append(make([]byte, 0, accessSize+int(a.Count)))[:accessSize+int(a.Count)]
	if err := s.dev.ReadRegion(a.Region, reply[accessSize:], a.Offset); err != nil {
		return nil, err
	}
	return reply, nil
}

func (s *Session) regionWrite(m *Message) ([]byte, error) {
	a, err := ParseAccess(m.Payload)
	if err != nil {
		return nil, err
	}
	if uint64(len(a.Data)) != uint64(a.Count) {
		return nil, refuse(unix.EINVAL, "%d bytes of data came along with count %d", len(a.Data), a.Count)
	}
	if err := s.access(&a, RegionWritable); err != nil {
		return nil, err
	}
	if err := s.dev.WriteRegion(a.Region, a.Data, a.Offset); err != nil {
		return nil, err
	}
	if m.Flags&FlagNoReply != 0 {
		return nil, nil
	}
	a.Data = nil
	return a.Append(nil), nil
}

func (s *Session) reset(*Message) ([]byte, error) { return nil, s.dev.Reset() }
