package rig

import "testing"

// A torn or foreign sector is no content.
func TestParse(t *testing.T) {
	b := make([]byte, 3*SectorBytes)
	Fill(b[SectorBytes:], 9, 5)
	got, err := Parse(b, 9)
	if err != nil || got[0] != (Stamp{}) || got[2] != (Stamp{5, 1}) {
		t.Errorf("%v %v", got, err)
	}
	for name, at := range map[string]int{"zeroes that are not": 100, "begins as a stamp": SectorBytes + 300, "ends otherwise": 2*SectorBytes - 20} {
		c := append([]byte(nil), b...)
		c[at] ^= 1
		if _, err := Parse(c, 9); err == nil {
			t.Errorf("%s: taken for content", name)
		}
	}
	if _, err := Parse(b, 8); err == nil {
		t.Error("another run's content is taken for this one's")
	}
}
