package backend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

// Repair mends what is damaged in the image at path and stands there twice: a
// superblock, a state block, a block of the committed table, from its good twin.
// A damaged block of faults is emptied.
// It returns what it mended, nothing when there was nothing to mend. What has no
// good twin it leaves as it is, for nobody to guess; Check tells. It fails when
// it cannot look or cannot write, and leaves an image in use alone.
func Repair(path string) (mended []Finding, err error) {
	kind, err := Probe(path)
	if err != nil {
		return nil, err
	}
	if kind != KindImage {
		return nil, fmt.Errorf("%s: %w", path, ErrNotImage)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open the image: %w", err)
	}
	r := &repairer{f: f, to: fileStore{fd: int(f.Fd())}}
	if err = lockFile(f, false); err == nil {
		err = r.run()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return r.mended, fmt.Errorf("image %s: %w", path, err)
	}
	return r.mended, nil
}

type repairer struct {
	f      *os.File
	to     store
	mended []Finding
}

// put writes a block, durably, and notes it.
func (r *repairer) put(where, what string, b []byte, off int64) error {
	if err := r.to.writeStable(b, off); err != nil {
		return fmt.Errorf("write the %s: %w", where, err)
	}
	r.mended = append(r.mended, Finding{where, what})
	return nil
}

func (r *repairer) run() error {
	l, err := r.supers()
	if l == nil || err != nil {
		return err
	}
	if st, err := r.f.Stat(); err != nil || st.Size() < l.dataOff {
		return err // the tables are not all there
	}
	if err := r.faults(l); err != nil {
		return err
	}
	clean, known, err := r.states(l)
	if err != nil || !known {
		return err
	}
	return r.committed(l, clean)
}

// supers mends one superblock from the other, and returns what they say; nil
// when neither is good, or both are and they differ.
func (r *repairer) supers() (*layout, error) {
	var blocks [2][]byte
	var good [2]*layout
	for i, off := range [...]int64{superOff, superCopyOff} {
		b := make([]byte, superBytes)
		if n, _ := r.f.ReadAt(b, off); n < len(b) {
			return nil, nil // cut short
		}
		blocks[i] = b
		if l, err := decodeSuper(b); err == nil {
			good[i] = l
		}
	}
	switch {
	case good[0] != nil && good[1] != nil:
		if *good[0] != *good[1] {
			return nil, nil
		}
		return good[0], nil
	case good[0] != nil && damagedSuper(blocks[1]):
		return good[0], r.put("copy of the superblock", "written anew from the superblock", blocks[0], superCopyOff)
	case good[1] != nil && damagedSuper(blocks[0]):
		return good[1], r.put("superblock", "written anew from its copy", blocks[1], superOff)
	}
	return nil, nil
}

// damagedSuper says that b is no superblock of any version: one of a newer
// version, or with features that are not known here, is whole and stays.
func damagedSuper(b []byte) bool {
	return string(b[:len(imageMagic)]) != imageMagic || checksum(b, 12) != binary.LittleEndian.Uint32(b[12:])
}

// faults empties a block of faults that is damaged. There is no other one, but
// nothing of the guests' hangs on it either.
func (r *repairer) faults(l *layout) error {
	_, err := readFaults(r.f, l)
	if !errors.Is(err, errDamagedFaults) {
		return nil // whole, or beyond what this zvhost knows of faults
	}
	b, err := encodeFaults(nil, l.uuid)
	if err != nil {
		return err
	}
	return r.put("faults", "damaged, and nowhere else: the image has none now", b, faultsOff)
}

// states mends one state block from the other, and says whether the image was
// closed cleanly; known is false when neither is good, for then nobody knows.
func (r *repairer) states(l *layout) (clean, known bool, err error) {
	s, bad, err := readState(r.f, l.uuid)
	switch {
	case len(bad) == 2:
		return false, false, nil
	case err != nil:
		return false, false, err
	case len(bad) == 0:
		return s.clean, true, s.renumber(r.to, l.uuid)
	}
	// The next one goes where the bad one is, and says the same.
	write := s.write
	if s.seq >= lateSeq {
		write = s.renumber
	}
	if err := write(r.to, l.uuid); err != nil {
		return false, false, fmt.Errorf("write the %s: %w", bad[0].Where, err)
	}
	r.mended = append(r.mended, Finding{bad[0].Where, "written anew from the other one"})
	return s.clean, true, nil
}

// committed mends blocks of the committed table of which one copy is good. The
// good one may be the older one. In an image that was closed cleanly the live
// table says the same as the newer one did; in one that was not, a power cut
// while the newer one was written leaves just that, and the older one counts.
func (r *repairer) committed(l *layout, clean bool) error {
	img := &image{layout: *l, store: r.to}
	var err error
	if img.commits, img.seqs, _, err = readCommitted(r.f, l); err != nil {
		return nil // both copies of a block, or what a good one says: nobody knows better
	}
	words := img.commits
	if clean {
		if words, err = readLive(r.f, l); err != nil {
			return err
		}
		for i, w := range words {
			if w.verify(&l.Geometry, i) != nil {
				return nil
			}
		}
	}
	var was [blockZones]word
	for n := range img.seqs {
		part := words[n*blockZones:][:len(img.entries(n))]
		_, damaged, err := readBlock(r.f, l, n, was[:len(part)])
		if err != nil {
			return err
		}
		for c, bad := range damaged {
			if bad == nil {
				continue
			}
			// The next copy goes where the damaged one is, and says the same.
			late := img.seqs[n] >= lateSeq
			if late {
				img.seqs[n] = early(img.seqs[n])
			}
			err := img.commitBlock(n, part)
			if late && err == nil {
				err = img.commitBlock(n, part)
			}
			if err != nil {
				return fmt.Errorf("write the %s: %w", copyName(n, c), err)
			}
			r.mended = append(r.mended, Finding{copyName(n, c), "written anew from the other one"})
		}
	}
	return nil
}
