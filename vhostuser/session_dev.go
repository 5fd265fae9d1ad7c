package vhostuser

import (
	"fmt"
	"math"
)

// The messages that concern the device as a whole.

// ownFeatures are the feature bits that are the session's, not the device's.
const ownFeatures = FeatureProtocol | FeatureLogAll

func (s *Session) offered() uint64 { return s.dev.Features() | ownFeatures }

func (s *Session) getFeatures(*Message) ([]byte, error) {
	return AppendU64(nil, s.offered()), nil
}

func (s *Session) setFeatures(m *Message) ([]byte, error) {
	f, err := ParseU64(m.Payload)
	if err != nil {
		return nil, err
	}
	same := s.state.featuresSet && f == s.state.features
	if same && !s.state.refused {
		return nil, nil
	}
	if extra := f &^ s.offered(); extra != 0 {
		return nil, fmt.Errorf("features %s were not offered", s.featureWords(extra))
	}
	if s.state.featuresSet && f^s.state.features == FeatureLogAll {
		return nil, s.setLogging(f)
	}
	acked := m.Flags&FlagNeedReply != 0 && s.state.protocol&ProtocolReplyAck != 0
	if i := s.anyRunning(); i >= 0 {
		if same && !acked {
			return nil, nil
		}
		return nil, fmt.Errorf("features cannot change while ring %d runs", i)
	}
	s.state.featuresSet, s.state.refused = false, false
	s.state.status &^= statusFeaturesOK
	if err := s.dev.SetFeatures(f &^ ownFeatures); err != nil {
		if acked {
			return nil, err
		}
		// Without an answer the front-end does not see the error, and continues.
		// The session must not end: a PC's firmware tries every disk with the few
		// features that it knows (SeaBIOS, src/hw/virtio-blk.c), and QEMU's generic
		// device does not survive the end of its session. The rings use the
		// features that were set, FEATURES_OK is withheld, and the device answers
		// requests with errors.
		s.state.refused = true
		s.refusedFeatures(m, err)
	}
	s.state.features, s.state.featuresSet = f, true
	if !s.state.refused {
		s.tookFeatures(f)
	}
	if f&FeatureProtocol == 0 {
		// "Ring states": then all rings are to be enabled at once.
		for i := range s.rings {
			s.state.rings[i].enabled = true
		}
	}
	return nil, s.resumeAll()
}

func (s *Session) getProtocolFeatures(*Message) ([]byte, error) {
	return AppendU64(nil, Offered), nil
}

func (s *Session) setProtocolFeatures(m *Message) ([]byte, error) {
	f, err := ParseU64(m.Payload)
	if err != nil {
		return nil, err
	}
	if extra := f &^ Offered; extra != 0 {
		return nil, fmt.Errorf("protocol features %s were not offered", showProtocolMask(extra))
	}
	if i := s.anyRunning(); i >= 0 && f != s.state.protocol {
		return nil, fmt.Errorf("protocol features cannot change while ring %d runs", i)
	}
	s.state.protocol, s.state.protocolSet, s.state.protocolNew = f, true, true
	return nil, nil
}

func (s *Session) getQueueNum(*Message) ([]byte, error) {
	return AppendU64(nil, uint64(len(s.rings))), nil
}

// resetDevice puts device and rings back to their beginning. The memory stays:
// a front-end with memory slots sends each region once, and continues to use them
// after a reset (QEMU's shadow regions). Protocol features and owner belong to
// the connection, not to the device. Call and err descriptors stay until others
// come; they carry nothing that a guest could see.
func (s *Session) resetDevice(*Message) ([]byte, error) {
	s.dev.Adopt(nil)
	for i := range s.rings {
		s.pause(i)
		s.drop(&s.rings[i].kick)
		s.state.rings[i] = ringState{life: nextLife(s.state.rings[i].life)}
	}
	s.state.features, s.state.featuresSet, s.state.refused, s.state.status = 0, false, false, 0
	s.reconnected = false
	s.dev.Reset()
	return nil, nil
}

// The bits of the virtio device status that matter here (virtio, "Device Status
// Field").
const (
	statusFeaturesOK uint8 = 8
	statusNeedsReset uint8 = 64
)

func (s *Session) getStatus(*Message) ([]byte, error) {
	status := s.state.status
	if s.dev.NeedsReset() {
		status |= statusNeedsReset
	}
	return AppendU64(nil, uint64(status)), nil
}

func (s *Session) setStatus(m *Message) ([]byte, error) {
	v, err := ParseU64(m.Payload)
	if err != nil {
		return nil, err
	}
	if v > math.MaxUint8 {
		return nil, fmt.Errorf("status %#x has more than 8 bits", v)
	}
	if v == 0 {
		return s.resetDevice(m)
	}
	status := uint8(v) &^ statusNeedsReset // the device sets this bit; front-ends write back what they have read
	if status&statusFeaturesOK != 0 && (!s.state.featuresSet || s.state.refused) {
		// The driver reads the status back to see whether its features were taken.
		// Where the device refused them, the log has its reason already.
		logf := s.warn
		if s.state.refused {
			logf = func(format string, args ...any) { s.log(LevelDebug, format, args...) }
		}
		logf("SET_STATUS %#x: FEATURES_OK is not taken, because no features were agreed on", status)
		status &^= statusFeaturesOK
	}
	s.state.status = status
	return nil, nil
}

func (s *Session) getConfig(m *Message) ([]byte, error) {
	c, err := parseConfigInRange(m.Payload)
	if err != nil {
		return nil, err
	}
	s.showQueues()
	// What the front-end sent as data is not wanted: read over it.
	if err := s.dev.ReadConfig(c.Data, c.Offset); err != nil {
		return nil, err
	}
	return c.Append(nil), nil
}

// showQueues makes the configuration space show as many queues as the front-end has set up
// by the time that it reads the space: QEMU sends SET_VRING_CALL for each of
// its queues when it makes its device (vhost_virtqueue_init in hw/virtio/vhost.c). Its
// generic device passes the space on as it is, and a Linux guest that finds more queues
// there than its device has does not use it. What was shown once does not change.
func (s *Session) showQueues() {
	st := &s.state
	if st.shown != 0 {
		return
	}
	if st.shown = uint16(len(s.rings)); st.named != 0 && st.named < st.shown {
		st.shown = st.named
		s.log(LevelInfo, "its front-end has set up %d of %d queues: its guest is shown as many", st.shown, len(s.rings))
	}
	s.dev.ShowQueues(int(st.shown))
}

func (s *Session) setConfig(m *Message) ([]byte, error) {
	c, err := parseConfigInRange(m.Payload)
	if err != nil {
		return nil, err
	}
	return nil, s.dev.WriteConfig(c.Data, c.Offset)
}

func parseConfigInRange(p []byte) (ConfigAccess, error) {
	c, err := ParseConfigAccess(p)
	if err == nil && uint64(c.Offset)+uint64(len(c.Data)) > math.MaxUint32 {
		err = fmt.Errorf("%d bytes of configuration at %#x go past the end of any space", len(c.Data), c.Offset)
	}
	return c, err
}
