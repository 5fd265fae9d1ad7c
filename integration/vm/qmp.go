package vm

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/zvhost/zvhost/integration/rig"
)

// A Monitor is the monitor of one QEMU. It is for one goroutine.
type Monitor struct {
	conn   *net.UnixConn
	lines  *bufio.Reader
	events []Event // that came while an answer was awaited
}

// An Event is something that QEMU says unasked.
type Event struct {
	Name string         `json:"event"`
	Data map[string]any `json:"data"`
}

// reply is any line that QEMU sends.
type reply struct {
	Event
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// newMonitor takes the greeting, and leaves the mode in which there is nothing but it.
func newMonitor(conn *net.UnixConn) (*Monitor, error) {
	m := &Monitor{conn: conn, lines: bufio.NewReader(conn)}
	if _, err := m.next(time.Now().Add(patience)); err != nil {
		return nil, fmt.Errorf("QEMU's monitor: no greeting: %w", err)
	}
	return m, m.Do("qmp_capabilities", nil, nil)
}

// next reads one line.
func (m *Monitor) next(deadline time.Time) (r reply, err error) {
	if err := m.conn.SetReadDeadline(deadline); err != nil {
		return r, err
	}
	line, err := m.lines.ReadBytes('\n')
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(line, &r)
}

// Do carries out a command. What it returns is decoded into result, which may be nil.
func (m *Monitor) Do(command string, arguments, result any) error {
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	line, err := json.Marshal(request)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(patience)
	if err := m.conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	if _, err := m.conn.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("QEMU's monitor: %s: %w", command, err)
	}
	for {
		r, err := m.next(deadline)
		switch {
		case err != nil:
			return fmt.Errorf("QEMU's monitor: no answer to %s: %w", command, err)
		case r.Name != "":
			m.events = append(m.events, r.Event)
		case r.Error != nil:
			return fmt.Errorf("QEMU's monitor: %s: %s", line, r.Error.Desc)
		case result == nil:
			return nil
		default:
			return json.Unmarshal(r.Return, result)
		}
	}
}

// Await waits for an event of that name; match, if it is not nil, says whether it is
// the right one. Events that came before it are forgotten.
func (m *Monitor) Await(name string, match func(data map[string]any) bool) error {
	deadline := time.Now().Add(patience)
	for {
		for len(m.events) > 0 {
			e := m.events[0]
			m.events = m.events[1:]
			if e.Name == name && (match == nil || match(e.Data)) {
				return nil
			}
		}
		r, err := m.next(deadline)
		if err != nil {
			return fmt.Errorf("QEMU's monitor: waited for %s: %w", name, err)
		}
		if r.Name != "" {
			m.events = append(m.events, r.Event)
		}
	}
}

// Migrate sends the guest's state to uri, and returns when it has gone.
func (m *Monitor) Migrate(uri string) error {
	if err := m.Do("migrate", map[string]any{"uri": uri}, nil); err != nil {
		return err
	}
	return m.migrated()
}

// migrated waits until a migration, out or in, is over.
func (m *Monitor) migrated() error {
	var info struct {
		Status string `json:"status"`
		Why    string `json:"error-desc"`
	}
	return rig.Await("the migration", func() (bool, error) {
		if err := m.Do("query-migrate", nil, &info); err != nil {
			return false, err
		}
		if info.Status == "failed" || info.Status == "cancelled" {
			return false, errors.New("the migration has " + info.Status + ": " + info.Why)
		}
		return info.Status == "completed", nil
	})
}
