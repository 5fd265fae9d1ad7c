package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/zvhost/zvhost/internal/bench"
)

// A runner is one side of a comparison.
type runner interface {
	// name is for tables.
	name() string
	// settings are what the task can be measured with. The one that does best in a
	// short trial is taken: each side is shown at its best.
	settings(t task) []setting
	// measure carries the task out once, for so long.
	measure(ctx context.Context, t task, s setting, d time.Duration) (bench.Result, error)
}

// A setting is a way to be started.
type setting struct {
	Name string   `json:"name"`
	Args []string `json:"args"`
}

// client runs zvhost bench on a target: a socket, or a file.
func client(ctx context.Context, zvhost string, target []string, t task, d time.Duration) (bench.Result, error) {
	args := append([]string{"bench", "--json"}, target...)
	args = append(args, "--rw", string(t.RW), "--bs", strconv.Itoa(t.BlockBytes),
		"--iodepth", strconv.Itoa(t.Depth), "--queues", strconv.Itoa(t.Queues), "--runtime", d.String())
	if t.Zones != 0 {
		args = append(args, "--zones", strconv.Itoa(t.Zones))
	}
	if t.Poll {
		args = append(args, "--poll")
	}
	return result(exec.CommandContext(ctx, zvhost, args...))
}

// result runs a command that prints a bench.Result as JSON.
func result(cmd *exec.Cmd) (r bench.Result, err error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return r, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()))
	}
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		return r, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, stdout.String())
	}
	if r.Requests == 0 {
		return r, fmt.Errorf("%s: no request was answered", strings.Join(cmd.Args, " "))
	}
	return r, nil
}
