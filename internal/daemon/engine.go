package daemon

import (
	"fmt"

	"github.com/sirupsen/logrus"

	"github.com/zvhost/zvhost/backend/engine"
)

// chooseEngine returns the engine that was asked for, or where none was, the one
// that is best on this machine. A kernel that lacks the one asked for is an error
// that says why.
func chooseEngine(asked engine.Kind, probe func(engine.Kind) error, log logrus.FieldLogger) (engine.Kind, error) {
	kind := asked
	if kind == "" {
		kind = engine.KindUring
	}
	err := probe(kind)
	switch {
	case err == nil:
		return kind, nil
	case asked != "":
		return "", fmt.Errorf("--aio=%s: the kernel does not give it: %w; leave --aio out to take what there is", asked, err)
	}
	log.Infof("no io_uring (%v), so I/O is done by threads", err)
	return engine.KindThreads, nil
}
