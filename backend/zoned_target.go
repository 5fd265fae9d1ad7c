package backend

import "fmt"

// ZoneTarget is a state that a zone can be put into from outside.
type ZoneTarget uint8

// The targets. Conventional zones can be ToReadOnly, ToOffline and ToWritable.
const (
	ToReadOnly ZoneTarget = iota + 1
	ToOffline
	ToFull
	ToEmpty // whatever it holds is gone, as after a reset
	// ToWritable takes a zone back from read-only or offline: it is empty, closed
	// or full by its write pointer. A zone in another state stays as it is.
	ToWritable
)

var targetNames = [...]string{
	ToReadOnly: "read-only", ToOffline: "offline", ToFull: "full", ToEmpty: "empty", ToWritable: "writable",
}

func (t ZoneTarget) String() string {
	if t > 0 && int(t) < len(targetNames) {
		return targetNames[t]
	}
	return fmt.Sprintf("target(%d)", uint8(t))
}

// ParseZoneTarget reads what String writes.
func ParseZoneTarget(s string) (ZoneTarget, error) {
	for t, name := range targetNames {
		if name == s && s != "" {
			return ZoneTarget(t), nil
		}
	}
	return 0, fmt.Errorf("%q is no state that a zone can be put into: want read-only, offline, full, empty or writable", s)
}
