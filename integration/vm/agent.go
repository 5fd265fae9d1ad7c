package vm

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"time"
)

// An agent is the host's end of guest/agent.
type agent struct {
	conn  *net.UnixConn
	from  *bufio.Reader
	count int // commands sent
}

func newAgent(conn *net.UnixConn) *agent { return &agent{conn: conn, from: bufio.NewReader(conn)} }

// ready waits until the agent says that it takes commands.
func (a *agent) ready() error {
	if err := a.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	line, err := a.from.ReadString('\n')
	if err == nil && !strings.HasPrefix(line, "ready ") {
		err = fmt.Errorf("it said %q first", line)
	}
	return err
}

// grace is how much longer than the guest the host waits for a command that takes too
// long: the guest is to tell.
const grace = 30 * time.Second

// run has the guest run a command, and returns what it printed and its status.
func (a *agent) run(command string, limit time.Duration) (output string, status int, err error) {
	a.count++
	if err := a.conn.SetDeadline(time.Now().Add(limit + grace)); err != nil {
		return "", 0, err
	}
	if _, err := fmt.Fprintf(a.conn, "run %d %d %d 0\n%s", a.count, int(limit.Seconds()), len(command), command); err != nil {
		return "", 0, err
	}
	line, err := a.from.ReadString('\n')
	if err != nil {
		return "", 0, err
	}
	var id, bytes int
	var kind string
	if _, err := fmt.Sscanf(line, "%d %d %d %s\n", &id, &status, &bytes, &kind); err != nil || id != a.count {
		return "", 0, fmt.Errorf("the answer to command %d is %q: %w", a.count, line, err)
	}
	text := make([]byte, bytes)
	_, err = io.ReadFull(a.from, text)
	return string(text), status, err
}

// off has the guest power off.
func (a *agent) off() error {
	if err := a.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := io.WriteString(a.conn, "off\n")
	return err
}

// Run runs a command in the guest (bash -euo pipefail) and returns what it printed, to
// stdout and stderr, without the line ends behind it. A status other than 0 is an error.
func (g *Guest) Run(command string) (string, error) {
	output, status, err := g.run(command)
	if err == nil && status != 0 {
		err = fmt.Errorf("in guest %s: %s: status %d: %s", g.name, command, status, output)
	}
	return output, err
}

// Fails runs a command that has to fail, and to print what matches a pattern.
func (g *Guest) Fails(pattern, command string) error {
	output, status, err := g.run(command)
	switch {
	case err != nil:
		return err
	case status == 0:
		return fmt.Errorf("in guest %s: this was to fail: %s: %s", g.name, command, output)
	case !regexp.MustCompile(pattern).MatchString(output):
		return fmt.Errorf("in guest %s: %s: status %d, without a word of %s: %s", g.name, command, status, pattern, output)
	}
	return nil
}

func (g *Guest) run(command string) (string, int, error) {
	output, status, err := g.agent.run(command, patience)
	if err != nil {
		err = fmt.Errorf("guest %s gives no answer to %s: %w", g.name, command, err)
	}
	return strings.TrimRight(output, "\n"), status, err
}
