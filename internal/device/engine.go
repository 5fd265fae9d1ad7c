package device

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/zvhost/zvhost/backend/disk"
	"github.com/zvhost/zvhost/backend/engine"
	"github.com/zvhost/zvhost/internal/logging"
)

// enginesFor are the engines for a disk, the best first. A zoned drive is best served
// by linux-aio: io_uring asks not to wait (NOWAIT), and Linux leaves such writes to a
// worker for each zone (blk_zone_wplug_handle_write in block/blk-zoned.c); on a
// null_blk of 1 ms, depth 32, linux-aio made 10.9k appends a second into 4 zones where
// io_uring made 4.3k and threads 6.1k, and 9.4k, 7.3k and 2.9k into 16.
func enginesFor(dk disk.Info) []engine.Kind {
	if dk.Zoned != nil && dk.Zoned.Moves {
		return []engine.Kind{engine.KindNative, engine.KindUring, engine.KindThreads}
	}
	return []engine.Kind{engine.KindUring, engine.KindThreads}
}

// ChooseEngine returns the engine that the operator asked for or, without one, the first of
// those for the disk that the kernel has. If the kernel lacks the one asked for, the error
// is the reason.
func ChooseEngine(asked engine.Kind, dk disk.Info, probe func(engine.Kind) error, log logrus.FieldLogger) (engine.Kind, error) {
	if asked != "" {
		if err := probe(asked); err != nil {
			return "", fmt.Errorf("--aio=%s: the kernel does not give it: %w; leave --aio out to take what there is", asked, err)
		}
		return asked, nil
	}
	var lacking []string
	for _, kind := range enginesFor(dk) {
		err := probe(kind)
		if err == nil {
			if len(lacking) > 0 {
				log.Infof("I/O is done by %s: the kernel has %s", kind, strings.Join(lacking, ", "))
			}
			return kind, nil
		}
		lacking = append(lacking, fmt.Sprintf("no %s (%v)", kind, err))
	}
	return "", errors.New("the kernel has " + strings.Join(lacking, ", "))
}

// orThreads is open, and threads where that fails: the kernel had such an engine when
// it was chosen, but what all processes may have of them is limited (fs.aio-max-nr, of
// which each QEMU that uses linux-aio takes its share).
func orThreads(open func(wake func()) (engine.Engine, error), log *logging.Errors) func(wake func()) (engine.Engine, error) {
	return func(wake func()) (engine.Engine, error) {
		e, err := open(wake)
		if err == nil {
			return e, nil
		}
		log.Error(fmt.Errorf("a queue's I/O is done by threads: %w", err))
		return engine.KindThreads.Open(wake)
	}
}
