package daemon

import (
	"fmt"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
)

// socketFDName is what the socket unit calls its descriptor
// (FileDescriptorName=). Others may be handed down beside it: the service
// manager's fd store uses the same channel (sd_listen_fds(3)).
const socketFDName = "vhost-user"

// activated returns the socket that the service manager handed down, or nil
// when there is none. A single descriptor is the socket whatever its name.
func activated() (*os.File, error) {
	files := activation.Files(true)
	if len(files) == 1 {
		return files[0], nil
	}
	var socket *os.File
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
		if f.Name() == socketFDName && socket == nil {
			socket = f
			continue
		}
		_ = f.Close() // nobody's any more
	}
	if len(files) > 0 && socket == nil {
		return nil, fmt.Errorf("systemd handed over %d descriptors (%s), none of them called %q: set FileDescriptorName=%s in the socket unit",
			len(files), strings.Join(names, ", "), socketFDName, socketFDName)
	}
	return socket, nil
}

// notify tells the service manager a state (sd_notify(3)), if there is one. A
// failure is worth a line and no more: the disk is served all the same.
func notify(log logrus.FieldLogger, state ...string) {
	if _, err := sd.SdNotify(false, strings.Join(state, "\n")); err != nil {
		log.Warnf("telling the service manager %q: %v", state[0], err)
	}
}

func status(format string, args ...any) string {
	return "STATUS=" + fmt.Sprintf(format, args...)
}
