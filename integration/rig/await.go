package rig

import (
	"fmt"
	"strings"
	"time"
)

// limit is how long anything may take that another process is about to do, on a machine
// that is busy; nothing that goes well takes a tenth of it.
const limit = 5 * time.Minute

// Await waits until done, which it asks again and again; an error of it is final. A test
// never looks once for what another process does.
func Await(what string, done func() (bool, error)) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %v in vain for %s", limit, what)
		}
	}
}

// AwaitLog waits until the log has a text n times. An error has the log.
func (p *Daemon) AwaitLog(n int, text string) error {
	err := Await(fmt.Sprintf("%q to be logged %d times", text, n), func() (bool, error) {
		gone := p.Gone() // asked first: the log is whole then
		if strings.Count(p.Log(), text) >= n {
			return true, nil
		}
		return false, gone
	})
	if err != nil {
		err = fmt.Errorf("%w; the log:\n%s", err, p.Log())
	}
	return err
}

// KillNext kills the daemon of a keeper, once there is one.
func (p *Daemon) KillNext() error {
	return Await("a daemon under the keeper", func() (bool, error) { return p.KillChild(), p.Gone() })
}
