package virtiopci

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"
)

// A function that is restored continues where the other one was, and the device behind it is not
// called.
func TestSaveRestore(t *testing.T) {
	r := newRig(t)
	r.setConf(regBAR0, 4, 0xfebf0000)
	r.setConf(regCommand, 2, 6)
	r.setConf(capMSIX+2, 2, msixEnable)
	r.put(4*pageBytes, 8, 0x123456789abc)
	r.dev.config[0] = 99
	r.get(2*pageBytes, 1) // another generation
	r.run(FeatureVersion1 | 1<<9)
	r.put(comDeviceFeatureSelect, 4, 1)
	r.NeedsReset()
	r.put(comConfigVector, 2, NoVector)
	r.ConfigChanged()
	s := r.Save()

	// It is plain data.
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var back State
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(s, back) {
		t.Fatalf("%+v\nbecomes\n%+v", s, back)
	}

	n := newRig(t)
	if err := n.Restore(back); err != nil {
		t.Fatal(err)
	}
	if a, b := n.image(), r.image(); !slices.Equal(a, b) {
		t.Errorf("registers\n%x, not\n%x", a, b)
	}
	if again := n.Save(); !reflect.DeepEqual(again, s) {
		t.Errorf("saved again\n%+v, not\n%+v", again, s)
	}
	n.wantCalls()
	// The server starts what runs; then accesses reach the device.
	for i := range 2 {
		q, running := n.Queue(i)
		if want, _ := r.Queue(i); !running || q != want {
			t.Errorf("queue %d: %+v, %v", i, q, running)
		}
		n.dev.running[i] = q
	}
	n.put(3*pageBytes, 8, 0)
	n.wantCalls("notify 0", "notify 1")
	if before := n.get(comGeneration, 1); n.get(2*pageBytes, 1) == 99 || n.get(comGeneration, 1) == before {
		t.Error("the driver was shown another configuration, and the generation is the same")
	}
	// A state that has been taken over is not taken over again.
	if err := n.Restore(back); err == nil {
		t.Error("restored twice")
	}
	for _, r := range []*rig{n, r} {
		r.Reset()
		r.Wait()
	}
}

// A change of which the driver was not notified is not lost.
func TestRestoreRaised(t *testing.T) {
	r := newRig(t)
	r.negotiate(FeatureVersion1)
	r.ConfigChanged()
	n := newRig(t)
	if err := n.Restore(r.Save()); err != nil {
		t.Fatal(err)
	}
	n.put(comConfigVector, 2, 1)
	n.put(comStatus, 1, 15)
	if got := n.interrupts(); !slices.Equal(got, []uint16{1}) {
		t.Errorf("interrupts %d", got)
	}
}

// States that the function cannot be in are refused, and change nothing.
func TestRestoreRefuses(t *testing.T) {
	for name, change := range map[string]func(*State){
		"configuration space short": func(s *State) { s.Config = s.Config[1:] },
		"table long":                func(s *State) { s.Table = append(s.Table, 0) },
		"device configuration":      func(s *State) { s.Shown = nil },
		"queues":                    func(s *State) { s.Queues = s.Queues[:1] },
		"another device":            func(s *State) { s.Config[regDevice]++ },
		"another capability":        func(s *State) { s.Config[capNotify+8] = 1 },
		"bits below the BAR's size": func(s *State) { s.Config[regBAR0] = 1 },
		"reserved table bits":       func(s *State) { s.Table[13] = 1 },
		"status":                    func(s *State) { s.Status |= 32 },
		"DRIVER_OK alone":           func(s *State) { s.Status = StatusDriverOK },
		"features":                  func(s *State) { s.DriverFeatures |= 1 << 6 },
		"no VERSION_1":              func(s *State) { s.DriverFeatures = 0 },
		"ISR":                       func(s *State) { s.ISR = 4 },
		"configuration vector":      func(s *State) { s.ConfigVector = 3 },
		"queue vector":              func(s *State) { s.Queues[0].Vector = 3 },
		"queue of 0":                func(s *State) { s.Queues[1].Size = 0 },
		"large queue":               func(s *State) { s.Queues[1].Size = 512 },
		"split queue of 3":          func(s *State) { s.Queues[1].Size = 3 },
		"running, not enabled":      func(s *State) { s.Queues[1].Enabled = false },
		"running, no driver":        func(s *State) { s.Status &^= StatusDriverOK },
	} {
		t.Run(name, func(t *testing.T) {
			r, n := newRig(t), newRig(t)
			r.run(FeatureVersion1)
			s := r.Save()
			if err := newRig(t).Restore(s); err != nil {
				t.Fatal(err)
			}
			change(&s)
			before := n.image()
			if err := n.Restore(s); err == nil {
				t.Error("restored")
			}
			if !slices.Equal(n.image(), before) {
				t.Error("registers changed")
			}
		})
	}
}
