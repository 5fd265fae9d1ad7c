package vhostuser

import (
	"errors"
	"fmt"
)

// refusals are those of features by the device since a driver's were taken last.
type refusals struct {
	n      int
	logged bool // that it is most likely a firmware
}

// refusedFeatures logs that the device does not take a driver's features. The first time
// it is most likely a PC's firmware, which tries every disk before the guest's kernel does;
// a second one in a row is a driver, or a front-end, that cannot use the disk: a warning.
func (s *Session) refusedFeatures(m *Message, err error) {
	s.refusals.n++
	if s.refusals.n > 1 {
		s.warn("refused %v: %v", m, err)
		return
	}
	level := LevelInfo
	if s.refusals.logged {
		level = LevelDebug
	}
	s.refusals.logged = true
	var short interface{ Short() string }
	words := err.Error()
	if errors.As(err, &short) {
		words = short.Short()
	}
	s.log(level, "%s, so it gets no disk; a PC's firmware does so once at each boot", words)
}

// tookFeatures logs what was agreed on, once.
func (s *Session) tookFeatures(f uint64) {
	s.refusals.n = 0
	if s.loggedFeatures {
		return
	}
	s.loggedFeatures = true
	s.log(LevelInfo, "took features %s; protocol features %s", s.featureWords(f), showProtocolMask(s.state.protocol))
}

// featureWords names features for the log; the device names its own, if it can.
func (s *Session) featureWords(f uint64) string {
	d, ok := s.dev.(interface{ FeatureString(uint64) string })
	if !ok {
		return fmt.Sprintf("%#x", f)
	}
	words := d.FeatureString(f &^ ownFeatures)
	if f&FeatureProtocol != 0 {
		words += "|PROTOCOL_FEATURES"
	}
	if f&FeatureLogAll != 0 {
		words += "|LOG_ALL"
	}
	return words
}
