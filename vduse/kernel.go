package vduse

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/foreign"
)

// A Kernel is the kernel's side of one device: the messages and ioctls of /dev/vduse/NAME.
// Any goroutine may call it. Tests have a Kernel of their own, since few machines have VDUSE.
type Kernel interface {
	// Read waits for a message and reads it. It fails with os.ErrClosed after Close, and with
	// ErrBroken when the kernel has given the device up.
	Read(message []byte) (int, error)
	// Write answers a message.
	Write(answer []byte) (int, error)
	// Features are those that the driver has accepted, once it has set FEATURES_OK.
	Features() (uint64, error)
	// SetConfig changes bytes of the configuration space; ConfigInterrupt has the driver look.
	SetConfig(off uint32, b []byte) error
	ConfigInterrupt() error
	// SetupQueue says before the device joins the bus how many descriptors ring i can have.
	SetupQueue(i int, size uint16) error
	// Queue is what the driver has said of ring i.
	Queue(i int) (QueueInfo, error)
	// SetKick sets the eventfd that the driver's notifications of ring i go to; -1: none.
	SetKick(i, eventfd int) error
	// Interrupt notifies the driver of used buffers in ring i. It fails with EINVAL while the
	// device does not have DRIVER_OK.
	Interrupt(i int) error
	// Lookup finds the memory at an address. It fails with EINVAL if there is none.
	Lookup(addr uint64) (Mapping, error)
	Close() error
}

// A Mapping is memory that the driver has given: the addresses from Start to Last, which begin
// at Offset of the file.
type Mapping struct {
	File                *foreign.FD // the caller's, who closes it
	Offset, Start, Last uint64
	Perm                uint8 // accessRO, accessWO or both
}

// Access to a Mapping.
const (
	accessRO uint8 = 1
	accessWO uint8 = 2
)

// ErrBroken is a device that the kernel has given up, since a message was not answered in time.
var ErrBroken = errors.New("the kernel has given the device up, because a message was not answered within its time (/sys/class/vduse/NAME/msg_timeout, 30 s): remove the device and make it anew (zvhost detach, zvhost attach)")

// Dir is where the device nodes are.
const Dir = "/dev/vduse"

// A Node is the Kernel of a device node.
type Node struct {
	file *os.File
	raw  interface {
		Control(f func(fd uintptr)) error
	}
}

// Open opens the node of the device called name. It fails with os.ErrNotExist if there is no such
// device, and with EBUSY while another process has it open.
func Open(name string) (*Node, error) {
	f, err := os.OpenFile(filepath.Join(Dir, name), os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Node{file: f, raw: raw}, nil
}

// Close closes the node. Messages that were read and not answered come again, to whoever opens
// it next.
func (n *Node) Close() error { return n.file.Close() }

// Read implements Kernel.
func (n *Node) Read(b []byte) (int, error) {
	k, err := n.file.Read(b)
	if err != nil && !errors.Is(err, os.ErrClosed) && n.broken() {
		err = ErrBroken
	}
	return k, err
}

// broken says whether the kernel has given the device up: its ioctls fail with EPERM then.
func (n *Node) broken() bool {
	_, err := n.Features()
	return errors.Is(err, unix.EPERM)
}

// Write implements Kernel.
func (n *Node) Write(b []byte) (int, error) { return n.file.Write(b) }

// ioctl calls with arg, which may be nil, and returns what the kernel returns.
func (n *Node) ioctl(request uintptr, arg []byte) (result int, err error) {
	cerr := n.raw.Control(func(fd uintptr) { result, err = ioctl(int(fd), request, arg) })
	if cerr != nil {
		err = cerr
	}
	return result, err
}

// ioctl is ioctl(2) with a structure in bytes.
func ioctl(fd int, request uintptr, arg []byte) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(unsafe.SliceData(arg))))
	runtime.KeepAlive(arg)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

// Features implements Kernel.
func (n *Node) Features() (uint64, error) {
	var b [8]byte
	_, err := n.ioctl(ioGetFeatures, b[:])
	return le.Uint64(b[:]), err
}

// SetConfig implements Kernel.
func (n *Node) SetConfig(off uint32, space []byte) error {
	b := make([]byte, setConfigBytes, setConfigBytes+len(space))
	le.PutUint32(b, off)
	le.PutUint32(b[4:], uint32(len(space)))
	_, err := n.ioctl(ioSetConfig, append(b, space...))
	return err
}

// ConfigInterrupt implements Kernel.
func (n *Node) ConfigInterrupt() error {
	_, err := n.ioctl(ioInjectConfig, nil)
	return err
}

// SetupQueue implements Kernel.
func (n *Node) SetupQueue(i int, size uint16) error {
	var b [vqConfigBytes]byte
	le.PutUint32(b[:], uint32(i))
	le.PutUint16(b[4:], size)
	_, err := n.ioctl(ioSetupQueue, b[:])
	return err
}

// Queue implements Kernel.
func (n *Node) Queue(i int) (QueueInfo, error) {
	var b [vqInfoBytes]byte
	le.PutUint32(b[:], uint32(i))
	if _, err := n.ioctl(ioQueueInfo, b[:]); err != nil {
		return QueueInfo{}, err
	}
	return parseQueueInfo(&b), nil
}

// SetKick implements Kernel.
func (n *Node) SetKick(i, eventfd int) error {
	var b [vqEventfdBytes]byte
	le.PutUint32(b[:], uint32(i))
	le.PutUint32(b[4:], uint32(int32(eventfd)))
	_, err := n.ioctl(ioSetupKick, b[:])
	return err
}

// Interrupt implements Kernel.
func (n *Node) Interrupt(i int) error {
	var b [4]byte
	le.PutUint32(b[:], uint32(i))
	_, err := n.ioctl(ioInjectQueueIRQ, b[:])
	return err
}

// Lookup implements Kernel.
func (n *Node) Lookup(addr uint64) (Mapping, error) {
	var b [iotlbBytes]byte
	le.PutUint64(b[8:], addr)
	le.PutUint64(b[16:], addr)
	fd, err := n.ioctl(ioIotlbGetFD, b[:])
	if err != nil {
		return Mapping{}, err
	}
	unix.CloseOnExec(fd) // the kernel does not
	m := Mapping{
		File: foreign.NewFD(fd), Offset: le.Uint64(b[0:]), Start: le.Uint64(b[8:]), Last: le.Uint64(b[16:]), Perm: b[24],
	}
	if m.Start > addr || m.Last < addr {
		return Mapping{}, errors.Join(fmt.Errorf("the kernel's memory for %#x is %#x-%#x", addr, m.Start, m.Last), m.File.Close())
	}
	return m, nil
}
