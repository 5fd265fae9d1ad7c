package vduse

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The numbers as a C compiler has them from include/uapi/linux/vduse.h.
func TestIoctls(t *testing.T) {
	for name, c := range map[string][2]uintptr{
		"VDUSE_SET_API_VERSION":       {ioSetVersion, 0x40088101},
		"VDUSE_CREATE_DEV":            {ioCreate, 0x41508102},
		"VDUSE_DESTROY_DEV":           {ioDestroy, 0x41008103},
		"VDUSE_IOTLB_GET_FD":          {ioIotlbGetFD, 0xc0208110},
		"VDUSE_DEV_GET_FEATURES":      {ioGetFeatures, 0x80088111},
		"VDUSE_DEV_SET_CONFIG":        {ioSetConfig, 0x40088112},
		"VDUSE_DEV_INJECT_CONFIG_IRQ": {ioInjectConfig, 0x8113},
		"VDUSE_VQ_SETUP":              {ioSetupQueue, 0x40208114},
		"VDUSE_VQ_GET_INFO":           {ioQueueInfo, 0xc0308115},
		"VDUSE_VQ_SETUP_KICKFD":       {ioSetupKick, 0x40088116},
		"VDUSE_VQ_INJECT_IRQ":         {ioInjectQueueIRQ, 0x40048117},
	} {
		if c[0] != c[1] {
			t.Errorf("%s is %#x, and not %#x", name, c[0], c[1])
		}
	}
}

func TestRequest(t *testing.T) {
	for want, r := range map[string]Request{
		"00000000 02000000 00000000000000000000000000000000 05000000":                  {Type: GetVQState, ID: 2, Queue: 5},
		"01000000 03000000 00000000000000000000000000000000 0f":                        {Type: SetStatus, ID: 3, Status: 15},
		"02000000 04000000 00000000000000000000000000000000 0010000000000000 ff2f0000": {Type: UpdateIOTLB, ID: 4, Start: 0x1000, Last: 0x2fff},
		"03000000 05000000": {Type: 3, ID: 5},
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(want, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, make([]byte, RequestBytes-len(b))...)
		if got := r.Append(nil); !bytes.Equal(got, b) {
			t.Errorf("%v is %x", r, got)
		}
		if got, err := ParseRequest(b); err != nil || got != r {
			t.Errorf("%v is read as %v, %v", r, got, err)
		}
	}
	for _, n := range []int{0, 1, RequestBytes - 1, RequestBytes + 1} {
		if _, err := ParseRequest(make([]byte, n)); err == nil {
			t.Errorf("a message of %d bytes is accepted", n)
		}
	}
}

func TestResponse(t *testing.T) {
	r := Response{ID: 7, Failed: true, Queue: 2, State: stateOf(0x8001_8002, true)}
	b := r.Append(nil)
	if got, want := hex.EncodeToString(b[:40]), "07000000"+"01000000"+"00000000000000000000000000000000"+"02000000"+"0100020001000100"+"00000000"; got != want || len(b) != ResponseBytes {
		t.Errorf("%d bytes, %s", len(b), got)
	}
	if got, err := ParseResponse(b); err != nil || got != r {
		t.Errorf("%v, %v", got, err)
	}
	b[4] = 2
	if _, err := ParseResponse(b); err == nil {
		t.Error("the result 2 is accepted")
	}
	if _, err := ParseResponse(b[1:]); err == nil {
		t.Error("an answer that is too short is accepted")
	}
}

func TestVQState(t *testing.T) {
	for _, base := range []uint32{0x8000_8000, 0, 0xffff_ffff, 0x0001_8002} {
		if got := stateOf(base, true).base(true); got != base {
			t.Errorf("packed %#x: %#x", base, got)
		}
		if got := stateOf(base, false).base(false); got != base&0xffff {
			t.Errorf("split %#x: %#x", base, got)
		}
	}
}

func TestConfig(t *testing.T) {
	c := Config{Name: "one", DeviceID: 2, VendorID: 0x1af4, Features: 1<<33 | 1<<17, Queues: 3, QueueSize: 256, Space: []byte{1, 2, 3}}
	b := c.append(nil)
	want := make([]byte, 339)
	copy(want, "one")
	copy(want[256:], "\xf4\x1a\x00\x00\x02\x00\x00\x00\x00\x00\x02\x00\x02\x00\x00\x00\x03\x00\x00\x00\x00\x10\x00\x00")
	copy(want[332:], "\x03\x00\x00\x00\x01\x02\x03")
	if !bytes.Equal(b, want) {
		t.Error(cmp.Diff(want, b))
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "vm1-data", "X_1.2", strings.Repeat("n", MaxName)} {
		if err := CheckName(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", ".", "..", "control", "a/b", "../x", "a b", "ä", "a\x00", strings.Repeat("n", MaxName+1)} {
		if CheckName(name) == nil {
			t.Errorf("%q is accepted", name)
		}
	}
}

func TestState(t *testing.T) {
	s := State{Status: 15, Queues: 2, Size: 256, Features: 1 << 34, Device: 5, Choices: 6, Life: 7, Shown: 8}
	s.Bases[0], s.Bases[1] = 0x8000_8000, 9
	b := s.Append(nil)
	if got, err := ParseState(b); err != nil || got != s {
		t.Error(cmp.Diff(s, got), err)
	}
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 1
		if _, err := ParseState(c); err == nil {
			t.Errorf("byte %d may be another one", i)
		}
		if _, err := ParseState(b[:i]); err == nil {
			t.Errorf("%d bytes are enough", i)
		}
	}
}

func FuzzState(f *testing.F) {
	s := State{Status: 15, Queues: 2, Size: 256}
	f.Add(s.Append(nil))
	f.Add([]byte(stateMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseState(b)
		if err == nil && !bytes.Equal(s.Append(nil), b) {
			t.Errorf("%x is stored as %x", b, s.Append(nil))
		}
	})
}
