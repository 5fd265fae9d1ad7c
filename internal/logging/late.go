package logging

import (
	"time"

	"github.com/sirupsen/logrus"
)

// Patience is how long something may wait for the disk before the operator is told.
const Patience = 5 * time.Second

// WarnLate logs a warning, once, when what waits for the disk for longer than patience,
// unless done is called before.
func WarnLate(log logrus.FieldLogger, patience time.Duration, what string) (done func()) {
	t := time.AfterFunc(patience, func() {
		log.Warnf("%s waits for the disk, which has not answered for %v: look after the disk", what, patience)
	})
	return func() { t.Stop() }
}
