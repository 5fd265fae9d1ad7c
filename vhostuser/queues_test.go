package vhostuser

import "testing"

// How many queues the configuration space shows: as many as the front-end has set up when
// it reads the space first, or all. fakeDevice has 2.
func TestQueuesShown(t *testing.T) {
	call := func(p *peer, i uint8) { p.must(SetVringCall, VringFile{Index: i, NoFD: true}.Append(nil)) }
	for name, c := range map[string]struct {
		before, after func(p *peer)
		want          int
	}{
		"QEMU, one queue":    {func(p *peer) { call(p, 0) }, nil, 1},
		"QEMU, two queues":   {func(p *peer) { call(p, 0); call(p, 1) }, nil, 2},
		"asks first":         {nil, func(p *peer) { call(p, 0) }, 2},
		"sets up more later": {func(p *peer) { call(p, 0) }, func(p *peer) { call(p, 1) }, 1},
		"names one by size":  {func(p *peer) { p.must(SetVringNum, VringState{0, 64}.Append(nil)) }, nil, 1},
		"stops one": {func(p *peer) {
			p.must(SetVringEnable, VringState{0, 0}.Append(nil))
			p.call(GetVringBase, VringState{0, 0}.Append(nil))
		}, nil, 2},
		"after a reset": {func(p *peer) { call(p, 0) }, func(p *peer) { p.must(ResetDevice, nil) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			store := &shelf{fds: map[string]int{}}
			p := keptPeer(t, store, new(fakeDevice))
			shows := func() {
				t.Helper()
				p.call(GetConfig, ConfigAccess{Data: make([]byte, 1)}.Append(nil))
				if p.dev.mu.Lock(); p.dev.shown != c.want {
					t.Errorf("%d queues, want %d", p.dev.shown, c.want)
				}
				p.dev.mu.Unlock()
			}
			p.must(SetProtocolFeatures, AppendU64(nil, Offered))
			p.must(SetOwner, nil)
			p.must(SetFeatures, AppendU64(nil, needed|FeatureProtocol))
			if c.before != nil {
				c.before(p)
			}
			p.over(store, new(fakeDevice)) // before it is read
			shows()
			if c.after != nil {
				c.after(p)
			}
			shows()
			p.over(store, new(fakeDevice))
			shows()
			if n, err := ParseU64(p.call(GetQueueNum, nil)); err != nil || n != 2 {
				t.Errorf("GET_QUEUE_NUM says %d, %v", n, err)
			}
			if err := p.leave(); err != nil {
				t.Fatal(err)
			}
		})
	}
}
