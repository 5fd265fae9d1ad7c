package backend

import (
	"fmt"
	"io"

	"github.com/zvhost/zvhost/backend/disk"
)

// fail ends r, on its lane, with a sentinel.
func (d *zoned) fail(r *zonedRequest, err error) { r.Finish(d.errorOf(r, err)) }

// end ends r, on its lane, with the outcome of I/O.
func (d *zoned) end(r *zonedRequest, err error) {
	if d.edges != nil {
		d.edges.End(r.Request)
	}
	switch {
	case err != nil:
		if err == io.ErrUnexpectedEOF {
			if short := d.img.Size.Look(); short != nil {
				err = short
			}
		}
		err = d.errorOf(r, fmt.Errorf("%w: %w", disk.ErrIO, err))
		if r.Op == disk.OpWrite && r.IO.Dsync { // it may have been told that data is lost: see image.sync
			d.com.flush(r.Request, err)
			return
		}
	case r.Fault != nil && r.Fault.Err != nil:
		err = d.errorOf(r, r.Fault.Err)
	case r.ThenSync:
		d.com.flush(r.Request, nil)
		return
	}
	r.Finish(err)
}

func (d *zoned) errorOf(r *zonedRequest, err error) error { return d.rules.ErrorOf(r.Request, err) }

// done ends r with err; a good one that has to be stable, once it is.
func (d *zoned) done(r *zonedRequest, err error) {
	if err == nil && r.Stable {
		d.com.flush(r.Request, nil)
		return
	}
	r.Finish(err)
}
