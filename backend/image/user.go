package image

import (
	"encoding/binary"
	"fmt"
)

// Run is the number of the image's user, made different from other images', and
// never 0.
func (img *Image) Run() uint64 {
	img.stateMu.Lock()
	defer img.stateMu.Unlock()
	return img.userLocked()
}

// userLocked is run with img.stateMu held. It begins anew behind the last number: only
// whether two are the same counts. 0, which says that there is none, is passed over.
func (img *Image) userLocked() uint64 { return binary.LittleEndian.Uint64(img.UUID[:]) ^ img.state.Run }

// Renew counts another user of the image, durably (disk.Resumer). It returns an error if
// that could not be written.
func (img *Image) Renew() error {
	if img.ReadOnly {
		return nil
	}
	img.stateMu.Lock()
	defer img.stateMu.Unlock()
	if img.state.Run++; img.userLocked() == 0 {
		img.state.Run++
	}
	return img.begunLocked()
}

// Begin notes durably that a queue is about to be served (disk.Begin). On an error nothing
// is noted.
func (img *Image) Begin() error {
	img.stateMu.Lock()
	defer img.stateMu.Unlock()
	if img.ReadOnly || !img.state.Idle {
		return nil
	}
	return img.begunLocked()
}

// begunLocked notes that requests are in flight from now on. img.stateMu is held.
func (img *Image) begunLocked() error {
	was := img.state.Idle
	img.state.Idle = false
	// Both copies: the older one must not bring back what is not so any more.
	for range 2 {
		if err := img.state.Write(img.Store, img.UUID); err != nil {
			img.state.Idle = was // for who tries again
			if img.Sync() != nil {
				_ = img.state.Distrust(img.Store, img.UUID)
			}
			return fmt.Errorf("image %s: note that somebody else uses it: %w", img.Path, err)
		}
	}
	return nil
}
