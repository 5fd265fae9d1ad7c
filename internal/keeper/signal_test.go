package keeper

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

func notifySignals(c chan os.Signal) { signal.Notify(c, unix.SIGTERM, unix.SIGINT) }
