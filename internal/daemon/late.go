package daemon

import (
	"time"

	"github.com/sirupsen/logrus"
)

// patience is how long something may wait for the disk before the operator is told.
const patience = 5 * time.Second

// late has the operator told, once, when what waits for the disk does so for longer
// than patience; until done is called.
func late(log logrus.FieldLogger, patience time.Duration, what string) (done func()) {
	t := time.AfterFunc(patience, func() {
		log.Warnf("%s waits for the disk, which has not answered for %v: look after the disk", what, patience)
	})
	return func() { t.Stop() }
}
