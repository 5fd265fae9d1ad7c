package frontend

// Regions and interrupt types of a PCI device (VFIO_PCI_CONFIG_REGION_INDEX and so on in
// linux/vfio.h); a BAR's region has its number.
const (
	configRegion = 7
	msixIndex    = 2
)

// access reaches the registers of the PCI function. Writes to BARs are posted, as QEMU's are: a read
// comes after them, and so does whatever else is sent.
type access struct{ c *Client }

func (a access) ReadConfig(dst []byte, off uint64) error {
	return a.c.limited(func() error { return a.c.vfio.Read(configRegion, dst, off) })
}

func (a access) WriteConfig(src []byte, off uint64) error {
	return a.c.limited(func() error { return a.c.vfio.Write(configRegion, src, off) })
}

func (a access) ReadBAR(bar int, dst []byte, off uint64) error {
	return a.c.limited(func() error { return a.c.vfio.Read(uint32(bar), dst, off) })
}

// WriteBAR has no time limit of its own: it is a queue's notification too.
func (a access) WriteBAR(bar int, src []byte, off uint64) error {
	return a.c.reason(a.c.vfio.Post(uint32(bar), src, off))
}
