package disk

import (
	"strings"
	"testing"
)

// What mountinfo says of a mount has the octal numbers of some characters.
func TestMountinfo(t *testing.T) {
	m, ok := parseMount(strings.Fields(`36 35 98:0 /sub\040dir /mnt\011a\134b rw,noatime master:1 - ext4 /dev/a\040b ro,errors=continue`))
	want := mount{id: "36", dev: "98:0", at: "/mnt\ta\\b", fs: "ext4", source: "/dev/a b", readOnly: true}
	if !ok || m != want {
		t.Errorf("%+v, %v; want %+v", m, ok, want)
	}
	for _, line := range []string{"", "36 35 98:0 / /mnt rw - ext4", "36 35 98:0 / /mnt rw master:1 ext4 /dev/a ro"} {
		if m, ok := parseMount(strings.Fields(line)); ok {
			t.Errorf("%q: %+v", line, m)
		}
	}
}
