package plain

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"

	"github.com/zvhost/zvhost/backend/disk"
)

// A foreign format is one that an ordinary disk's file looks like. A guest sees its
// bytes, header and all, and not the disk that is in it. The file may be right all the
// same: a guest can write such a header to the first sector of its disk, and one that
// encrypts a whole disk does.
type foreign struct {
	Name, Mark string
	At         int64 // in bytes; from the end of the file where it is negative
}

// looksLike says in words what format f, of so many bytes, looks like; empty where it
// is none that is known.
func looksLike(f *os.File, size int64) string {
	for _, k := range Foreigns {
		at := k.At
		if at < 0 {
			at += size
		}
		b := make([]byte, len(k.Mark))
		if at < 0 {
			continue
		}
		if n, _ := f.ReadAt(b, at); n == len(b) && string(b) == k.Mark && k.sensible(f) {
			return k.Name
		}
	}
	return ""
}

// sensible tells a QEMU header, which has a version, from four bytes that happen to
// be there; the other notes are long enough, or of no use in a first sector.
func (k *foreign) sensible(f *os.File) bool {
	if k.Mark != "QFI\xfb" {
		return true
	}
	b := make([]byte, 4)
	n, _ := f.ReadAt(b, 4)
	v := binary.BigEndian.Uint32(b)
	return n == len(b) && v >= 1 && v <= 3
}

// warnOfForeign has the operator told when f, to be served as an ordinary disk, looks
// like something else and nobody has said that it is none.
func warnOfForeign(path string, size int64, o *disk.Options) {
	if o.Format == disk.FormatRaw || o.Warn == nil {
		return
	}
	f, err := os.Open(path) // not the disk's, which may be for direct I/O
	if err != nil {
		return
	}
	defer f.Close()
	if name := looksLike(f, size); name != "" {
		o.Warn(fmt.Sprintf("%s looks like %s: a guest sees it as it is, %s included; convert it if that is wrong (qemu-img convert -O raw), or say --format raw if it is right",
			path, name, map[bool]string{true: "header", false: "packing"}[!strings.Contains(name, "file") && !strings.Contains(name, "archive")]))
	}
}

// Foreigns are the formats that zvhost knows by their first or last bytes.
var Foreigns = []foreign{
	{"a qcow2 image", "QFI\xfb", 0},
	{"a VMDK image", "KDMV", 0},
	{"a VMDK image", "COWD", 0},
	{"the descriptor of a VMDK image", "# Disk DescriptorFile", 0},
	{"a VDI image", "\x7f\x10\xda\xbe", 64},
	{"a VHDX image", "vhdxfile", 0},
	{"a VHD image", "conectix", 0},
	{"a VHD image", "conectix", -512},
	{"a QED image", "QED\x00", 0},
	{"a Parallels image", "WithoutFreeSpace", 0},
	{"a Parallels image", "WithouFreSpacExt", 0},
	{"a Bochs image", "Bochs Virtual HD Image", 0},
	{"a cloop image", "#!/bin/sh\n#V2.0 Format\nmodprobe cloop", 0},
	{"a DMG image", "koly", -512},
	{"a LUKS volume", "LUKS\xba\xbe", 0},
	{"a LUKS volume", "SKUL\xba\xbe", 16 << 10}, // its second header; the first is gone
	{"a gzip file", "\x1f\x8b\x08", 0},
	{"an xz file", "\xfd7zXZ\x00", 0},
	{"a zstd file", "\x28\xb5\x2f\xfd", 0},
	{"a bzip2 file", "BZh91AY&SY", 0},
	{"a ZIP archive", "PK\x03\x04", 0},
	{"an OVA archive", "ustar", 257},
}
