package backend

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/zvhost/zvhost/backend/disk"
)

var faultLines = []struct {
	text    string
	OpFault disk.Fault
}{
	{"read", disk.Fault{Kind: disk.FaultRead}},
	{"read,sectors=1000-1999", disk.Fault{Kind: disk.FaultRead, Place: disk.InSectors, First: 1000, Last: 1999}},
	{"write,zone=5,once,after=16", disk.Fault{Kind: disk.FaultWrite, Place: disk.InZones, First: 5, Last: 5, Times: 1, After: 16}},
	{"append,zone=3-9,times=4", disk.Fault{Kind: disk.FaultAppend, Place: disk.InZones, First: 3, Last: 9, Times: 4}},
	{"flush,once", disk.Fault{Kind: disk.FaultFlush, Times: 1}},
	{"latency=200ms", disk.Fault{Kind: disk.FaultLatency, Delay: 200 * time.Millisecond}},
	{"latency=1h0m0s,op=read,op=write,zone=4", disk.Fault{Kind: disk.FaultLatency, Delay: time.Hour, Ops: disk.SetOf(disk.OpRead, disk.OpWrite), Place: disk.InZones, First: 4, Last: 4}},
	{"full", disk.Fault{Kind: disk.FaultFull}},
	{"full,left=1M", disk.Fault{Kind: disk.FaultFull, Left: 1 << 20}},
	{"full,left=1025", disk.Fault{Kind: disk.FaultFull, Left: 1025}},
}

func TestFaultLines(t *testing.T) {
	for _, c := range faultLines {
		f, err := disk.ParseFault(c.text)
		if err != nil || f != c.OpFault {
			t.Errorf("%q is read as %+v, %v", c.text, f, err)
		}
		if got := c.OpFault.String(); got != c.text {
			t.Errorf("%+v is written as %q, want %q", c.OpFault, got, c.text)
		}
		b, err := json.Marshal(c.OpFault)
		if err != nil || string(b) != `"`+c.text+`"` {
			t.Errorf("%q in JSON is %s, %v", c.text, b, err)
		}
		if err := json.Unmarshal(b, &f); err != nil || f != c.OpFault {
			t.Errorf("%s is read as %+v, %v", b, f, err)
		}
	}
	// Another spelling of the same.
	for text, want := range map[string]string{
		"write,once,zone=5-5": "write,zone=5,once", "full,left=1024K": "full,left=1M",
		"latency=1000ms": "latency=1s", "read,sectors=7": "read,sectors=7-7", "read,times=1": "read,once",
		"full,left=0": "full",
	} {
		if f, err := disk.ParseFault(text); err != nil || f.String() != want {
			t.Errorf("%q is read as %v, %v; want %s", text, f, err, want)
		}
	}
}

// What is no fault is refused, with the word that is wrong.
func TestWrongFaultLines(t *testing.T) {
	for text, want := range map[string]string{
		"":                                      "no kind of fault",
		"wirte":                                 `"wirte" is no kind`,
		"read=5":                                "only latency has a value",
		"write,zone":                            "want a number",
		"write,zone=7-5":                        "ends before it begins",
		"write,zone=-1":                         "want a number",
		"write,zone=9999999":                    "more than any disk has",
		"write,zon=5":                           `"zon=5": not a word of a write fault`,
		"write,zone=5,zone=6":                   "said twice",
		"write,zone=5,sectors=6":                "said twice",
		"write,once,times=2":                    "said twice",
		"write,times=0":                         "how often",
		"write,times=4294967296":                "how often",
		"write,after=x":                         "a number of sectors",
		"read,after=8":                          "not a word of a read fault",
		"write,":                                `"": not a word`,
		"write,once=2":                          "not a word",
		"flush,zone=1":                          "not a word",
		"latency":                               "want a time",
		"latency=0s":                            "want a time",
		"latency=-1s":                           "want a time",
		"latency=61m":                           "at most 1h0m0s",
		"latency=1s,op=reset":                   "want op=read",
		"latency=1s,op=flush,zone=4":            "a flush has no place",
		"latency=1s,sectors=8,op=read,op=flush": "a flush has no place",
		"write,op=read":                         "not a word",
		"full,once":                             "not a word",
		"full,left=1Q":                          "number of bytes",
		"full,left=9999P":                       "number of bytes",
		"full,zone=1":                           "not a word",
		strings.Repeat("x", 1000):               "longer than",
	} {
		f, err := disk.ParseFault(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want %q in the error", text, f, err, want)
		}
	}
}

// What is read is written so that it is read as the same again.
func FuzzParseFault(f *testing.F) {
	for _, c := range faultLines {
		f.Add(c.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := disk.ParseFault(text)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("an error of more than a line: %q", err)
			}
			return
		}
		if len(a.String()) > disk.MaxFaultText {
			t.Errorf("%q is written with %d bytes", a, len(a.String()))
		}
		if b, err := disk.ParseFault(a.String()); err != nil || a != b {
			t.Errorf("%q is read as %+v, written as %q and then read as %+v, %v", text, a, a, b, err)
		}
		info := disk.Info{CapacitySectors: 1920, LogicalBlockSize: 512}
		_ = a.Check(&info)
		info.Zoned = &disk.ZonedInfo{Zones: 15, ZoneSectors: 128}
		s := disk.Faults{Info: info}
		if _, err := s.Add(a); err == nil {
			s.Strike(&disk.Request{Op: disk.OpWrite}, 100, 8)
			s.Strike(&disk.Request{Op: disk.OpRead}, 1900, 20)
		}
	})
}
