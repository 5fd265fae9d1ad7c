package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/vhostuser/frontend"
	"github.com/zvhost/zvhost/virtio/driver"
)

// An ordinary disk is written in regions, a new one each time: once the disk under
// the file system has room for a place it keeps it.
const (
	regions       = 6
	regionSectors = 4 << 20 / sectorBytes
)

// plainTrials: all queues at once.
func plainTrials() (all []trial) {
	for _, t := range []struct {
		name         string
		lost, stable bool
	}{
		{"ordinary disk, flushes at once, nothing is lost", false, false},
		{"ordinary disk, flushes at once", true, false},
		{"ordinary disk, stable writes side by side, nothing is lost", false, true},
		{"ordinary disk, stable writes side by side", true, true},
	} {
		all = append(all, trial{t.name, func(h *host, name string) (string, error) { return h.plain(name, t.lost, t.stable) }})
	}
	return all
}

// plain goes through the regions of a new disk.
func (h *host) plain(name string, lost, stable bool) (string, error) {
	path := h.onDisk(fmt.Sprintf("%x", name))
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := f.Truncate(regions * regionSectors * sectorBytes); err != nil {
		return "", err
	}
	for i := range regions { // the file system knows of all regions
		if _, err := f.WriteAt(pattern('o', blockBytes), int64(i)*regionSectors*sectorBytes); err != nil {
			return "", err
		}
	}
	bad := 0
	for i := range uint64(regions) {
		n, err := h.region(path, i*regionSectors+blockSectors, lost, stable)
		if err != nil {
			return "", fmt.Errorf("round %d: %w", i, err)
		}
		bad += n
	}
	return fmt.Sprintf("of %d requests %d fail, and what the others speak of is there", regions*queues, bad), nil
}

// region has data from start on lost, or not, and all queues asked for it at the same
// time: by flushes, or by writes that are to be stable. It returns how many of them
// have failed.
func (h *host) region(path string, start uint64, lost, stable bool) (bad int, err error) {
	p, err := h.serve(path)
	if err != nil {
		return 0, err
	}
	w, err := newWitness(path)
	if err != nil {
		return 0, errors.Join(err, p.End(unix.SIGKILL))
	}
	defer w.close()
	requests, err := h.ask(start, lost, stable)
	err = errors.Join(err, end(p, lost))
	if err == nil {
		err = w.end(lost)
	}
	if err != nil {
		return 0, err
	}
	got := make([]byte, queues*bufferBytes)
	if _, err := w.f.ReadAt(got, int64(start)*sectorBytes); err != nil {
		return 0, err
	}
	want := pattern('d', len(got))
	for i, status := range requests {
		part := [2]int{0, len(got)} // that the request is about
		if stable {
			part = [2]int{i * bufferBytes, (i + 1) * bufferBytes}
		}
		switch {
		case status == driver.StatusIOErr && lost:
			bad++
		case status != driver.StatusOK:
			return 0, fmt.Errorf("%w: queue %d has the answer %s", errFound, i, driver.StatusString(status))
		case !bytes.Equal(got[part[0]:part[1]], want[part[0]:part[1]]):
			return 0, fmt.Errorf("%w: queue %d is told that all is well, and its data is gone", errFound, i)
		}
	}
	return bad, nil
}

// ask returns the answers that the queues get.
func (h *host) ask(start uint64, lost, stable bool) (answers []byte, err error) {
	disk, err := h.connect()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	if lost {
		if err := h.fill(); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, h.free()) }()
	}
	if stable {
		if err := through(disk, true); err != nil {
			return nil, err
		}
	}
	data := pattern('d', queues*bufferBytes)
	var asked [queues]*frontend.Request
	for i := range asked {
		q := disk.Queue(i)
		part, at := data[i*bufferBytes:][:bufferBytes], start+uint64(i)*bufferBytes/sectorBytes
		if !stable {
			if err := q.Write(part, at); err != nil {
				return nil, err
			}
		}
		r := q.Get()
		r.Type, r.Sector = driver.TypeFlush, 0
		r.SetLen(0)
		if stable {
			r.Type, r.Sector = driver.TypeOut, at
			r.SetLen(bufferBytes)
			copy(r.Data, part)
		}
		asked[i] = r
	}
	for i, r := range asked {
		if err := disk.Queue(i).Submit(r); err != nil {
			return nil, err
		}
	}
	for i := range asked {
		if err := disk.Queue(i).Kick(); err != nil {
			return nil, err
		}
	}
	for i, r := range asked {
		q := disk.Queue(i)
		var done [1]*frontend.Request
		if _, err := q.Wait(done[:]); err != nil {
			return nil, err
		}
		answers = append(answers, r.Status)
		q.Put(r)
	}
	return answers, nil
}
