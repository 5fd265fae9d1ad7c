package virtiopci

import (
	"encoding/binary"
	"testing"
	"time"
)

// Operations of a script: one byte for the operation and the number of bytes, 4 for the offset, 8
// for a value.
const (
	opReadConfig = iota
	opWriteConfig
	opRead
	opWrite
	opChange
	opSave
	opReset
	opCount
)

// An access in a script.
func access(op, n byte, off uint32, v uint64) []byte {
	b := binary.LittleEndian.AppendUint32([]byte{op + opCount*n}, off)
	return binary.LittleEndian.AppendUint64(b, v)
}

const accessBytes = 13

func join(parts ...[]byte) (b []byte) {
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// fuzzSeeds are a driver's whole life, and what it does not do.
func fuzzSeeds() [][]byte {
	start := join(
		access(opWriteConfig, 4, regBAR0, 0xffffffff), access(opReadConfig, 4, regBAR0, 0), access(opWriteConfig, 2, regCommand, 6),
		access(opWriteConfig, 2, capMSIX+2, msixEnable),
		access(opWrite, 1, comStatus, 0), access(opWrite, 1, comStatus, 3),
		access(opWrite, 8, comDriverFeatureSelect, 1|1<<32|1<<40), access(opWrite, 1, comStatus, 11),
		access(opWrite, 2, comConfigVector, 0),
		access(opWrite, 2, comQueueSelect, 0), access(opWrite, 2, comQueueSize, 64), access(opWrite, 2, comQueueVector, 1),
		access(opWrite, 8, comQueueDesc, 0x1000), access(opWrite, 8, comQueueDriver, 0x2000), access(opWrite, 8, comQueueDevice, 0x3000),
		access(opWrite, 2, comQueueEnable, 1), access(opWrite, 1, comStatus, 15), access(opWrite, 2, 3*pageBytes, 0),
	)
	return [][]byte{
		nil,
		start,
		join(start, access(opChange, 1, 0, 0), access(opRead, 1, pageBytes, 0), access(opRead, 8, 2*pageBytes, 0), access(opSave, 0, 0, 0), access(opWrite, 1, comStatus, 0)),
		join(start, access(opWrite, 2, comQueueReset, 1), access(opWrite, 2, comQueueSelect, 1), access(opWrite, 2, comQueueEnable, 1), access(opWrite, 8, 3*pageBytes, 0), access(opReset, 0, 0, 0)),
		join(start, access(opWriteConfig, 8, windowOffset, comStatus|1<<32), access(opWriteConfig, 4, windowData, 0), access(opReadConfig, 4, windowData, 0), access(opSave, 0, 0, 0)),
		join(access(opWrite, 8, 0xfffffffc, 1), access(opRead, 8, 0x7ffc, 1), access(opWriteConfig, 8, 0xffc, 1), access(opWrite, 8, comStatus-4, ^uint64(0)), access(opWrite, 5, 4*pageBytes+11, ^uint64(0))),
	}
}

// FuzzAccesses makes the accesses that a script has. The function obeys the rules of Device (the
// fake device panics if not), reads are the same in one piece and in bytes, and a saved state is
// one that can be restored.
func FuzzAccesses(f *testing.F) {
	for _, s := range fuzzSeeds() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, script []byte) { runScript(t, script) })
}

func runScript(t *testing.T, script []byte) *rig {
	r := newRig(t, func(d *fakeDevice, o *Options) {
		d.features |= FeatureRingReset | FeatureNotifConfigData | FeatureNotificationData
		o.ResetWait = time.Hour
	})
	for n := 0; len(script) >= accessBytes && n < 200; n++ {
		runAccess(t, r, script[:accessBytes])
		script = script[accessBytes:]
	}
	r.Reset()
	r.Wait()
	if r.get(comStatus, 1) != 0 || len(r.dev.running) != 0 {
		t.Fatal("a reset has left something")
	}
	return r
}

func runAccess(t *testing.T, r *rig, a []byte) {
	n, off := min(int(a[0]/opCount), 8), uint64(binary.LittleEndian.Uint32(a[1:]))
	if off >= 0xffff0000 {
		off |= 0xffffffff00000000
	}
	value := a[5:][:n]
	dst := make([]byte, n)
	switch a[0] % opCount {
	case opReadConfig:
		_ = r.ReadConfig(dst, off)
	case opWriteConfig:
		_ = r.WriteConfig(value, off)
	case opRead:
		if off+uint64(n) <= r.BARBytes() && (off > pageBytes || off+uint64(n) <= pageBytes) {
			_ = r.ReadBAR(0, dst, off)
			for i, v := range dst {
				if got := r.get(off+uint64(i), 1); got != uint64(v) {
					t.Fatalf("byte %d of a read of %d at %#x is %#x, alone %#x", i, n, off, v, got)
				}
			}
		} else if _ = r.ReadBAR(0, dst, off); off+uint64(n) > r.BARBytes() && n != 0 && dst[0] != 0 {
			t.Fatalf("a read of %d at %#x", n, off)
		}
	case opWrite:
		_ = r.WriteBAR(0, value, off)
	case opChange:
		r.dev.config[off%96]++
		if n == 0 {
			r.NeedsReset()
		} else {
			r.ConfigChanged()
		}
	case opSave:
		s := r.Save()
		other := newRig(t, func(d *fakeDevice, _ *Options) { d.features = r.dev.features })
		if err := other.Restore(s); err != nil {
			t.Fatalf("%v: %+v", err, s)
		}
		if string(other.image()) != string(r.image()) {
			t.Fatal("a restored function has other registers")
		}
	case opReset:
		r.Reset()
	}
}

// The seeds reach what they are meant to reach.
func TestFuzzSeeds(t *testing.T) {
	for i, s := range fuzzSeeds() {
		started := 0
		for _, c := range runScript(t, s).dev.took() {
			if len(c) > 5 && c[:5] == "start" {
				started++
			}
		}
		if want := map[int]int{1: 1, 2: 1, 3: 2, 4: 1}[i]; started != want {
			t.Errorf("seed %d: %d queues started, not %d", i, started, want)
		}
	}
}
