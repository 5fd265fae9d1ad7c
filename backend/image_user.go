package backend

import (
	"encoding/binary"
	"fmt"
)

// run is the number of the image's user, made different from other images', and
// never 0.
func (img *image) run() uint64 {
	img.stateMu.Lock()
	defer img.stateMu.Unlock()
	return img.userLocked()
}

// userLocked is run with img.stateMu held. It begins anew behind the last number: only
// whether two are the same counts. 0, which says that there is none, is passed over.
func (img *image) userLocked() uint64 { return binary.LittleEndian.Uint64(img.uuid[:]) ^ img.state.run }

// renew counts another user of the image, durably.
func (img *image) renew() error {
	if img.readOnly {
		return nil
	}
	img.stateMu.Lock()
	defer img.stateMu.Unlock()
	if img.state.run++; img.userLocked() == 0 {
		img.state.run++
	}
	return img.begunLocked()
}

// begin is Begin.
func (img *image) begin() error {
	img.stateMu.Lock()
	defer img.stateMu.Unlock()
	if img.readOnly || !img.state.idle {
		return nil
	}
	return img.begunLocked()
}

// begunLocked notes that requests are in flight from now on. img.stateMu is held.
func (img *image) begunLocked() error {
	was := img.state.idle
	img.state.idle = false
	// Both copies: the older one must not bring back what is not so any more.
	for range 2 {
		if err := img.state.write(img.store, img.uuid); err != nil {
			img.state.idle = was // for who tries again
			if img.sync() != nil {
				_ = img.state.distrust(img.store, img.uuid)
			}
			return fmt.Errorf("image %s: note that somebody else uses it: %w", img.path, err)
		}
	}
	return nil
}
