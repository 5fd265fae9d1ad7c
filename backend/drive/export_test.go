package drive

// NewFake makes a drive over a device in memory, for tests by way of package backend.
var NewFake = newFakeDrive

// Lose makes d as if a sync had failed with err.
func (d *Drive) Lose(err error) { d.lost.Store(&err) }
