package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zvhost/zvhost/internal/bench"
)

// serving starts a server, waits until it listens on the socket, calls f, and
// ends it. A server that does not start, or ends by itself or badly, is an error
// with all that it said.
func serving(cmd *exec.Cmd, socket string, f func() (bench.Result, error)) (r bench.Result, err error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return r, err
	}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		return r, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	failed := func(what string, err error) error {
		return fmt.Errorf("%s: %s: %v; it was started as\n  %s\nand said:\n%s", filepath.Base(cmd.Args[0]), what, err, strings.Join(cmd.Args, " "), log.String())
	}
	for began := time.Now(); ; time.Sleep(2 * time.Millisecond) {
		select {
		case err := <-ended:
			return r, failed("it did not start", err)
		default:
		}
		if listens(socket) {
			break
		}
		if time.Since(began) > 20*time.Second {
			_ = cmd.Process.Kill()
			return r, failed("it did not listen within 20 s", <-ended)
		}
	}
	r, err = f()
	select {
	case e := <-ended:
		return r, failed("it ended in the middle", errors.Join(e, err))
	default:
	}
	gone := cmd.Process.Signal(unix.SIGTERM)
	if e := <-ended; errors.Is(gone, os.ErrProcessDone) {
		err = errors.Join(err, failed("it ended in the middle", e))
	} else if e != nil {
		err = errors.Join(err, failed("it ended badly", e))
	} else if err != nil {
		err = failed("the client failed", err)
	}
	return r, err
}

// listens says whether the socket is there. Its server then listens, or will in
// no time.
func listens(socket string) bool {
	if _, err := os.Stat(socket); err != nil {
		return false
	}
	time.Sleep(20 * time.Millisecond)
	return true
}

// zvhostServer is zvhost serve.
type zvhostServer struct {
	bin    string
	files  *files
	help   string // of zvhost serve: what flags this one has
	socket string
}

func newZvhost(bin string, f *files) (*zvhostServer, error) {
	help, err := exec.Command(bin, "serve", "--help").Output()
	if err != nil {
		return nil, fmt.Errorf("%s serve --help: %w; build it first (make build)", bin, err)
	}
	return &zvhostServer{bin: bin, files: f, help: string(help), socket: filepath.Join(f.dir, "zvhost.sock")}, nil
}

func (z *zvhostServer) name() string { return "zvhost" }

func (z *zvhostServer) settings(t task) []setting {
	var list []setting
	add := func(name string, args ...string) {
		for _, a := range args {
			if flag, _, _ := strings.Cut(a, "="); !strings.Contains(z.help, flag+" ") {
				return // an older zvhost
			}
		}
		list = append(list, setting{name, args})
	}
	switch {
	case t.Storage == nothing:
		add("default")
		add("poll-max=0", "--poll-max=0")
	case t.Storage == disk:
		add("io_uring", "--aio=io_uring", "--cache=direct")
		add("native", "--aio=native", "--cache=direct")
	default:
		add("io_uring, buffered", "--aio=io_uring", "--cache=buffered")
		add("io_uring, direct", "--aio=io_uring", "--cache=direct")
		add("threads, buffered", "--aio=threads", "--cache=buffered")
	}
	if len(list) == 0 {
		add("default")
	}
	return list
}

func (z *zvhostServer) measure(ctx context.Context, t task, s setting, d time.Duration) (bench.Result, error) {
	args := append([]string{"serve", "--log-level=warning", "--socket-path", z.socket, "--queues", strconv.Itoa(t.Queues)}, s.Args...)
	if t.Storage == nothing {
		args = append(args, "--null", "--null-size", "64G")
	} else {
		args = append(args, "--blk-file", z.files.of(t))
	}
	return serving(exec.Command(z.bin, args...), z.socket, func() (bench.Result, error) {
		return client(ctx, z.bin, []string{"--socket-path", z.socket}, t, d)
	})
}

// ordinary is zvhost with an ordinary file in an image's place, written at
// random instead of appended to.
type ordinary struct{ *zvhostServer }

func (o ordinary) name() string { return "zvhost, randwrite to an ordinary file" }

func (o ordinary) settings(t task) []setting { return o.zvhostServer.settings(o.task(t)) }

func (o ordinary) task(t task) task {
	t.RW, t.Zones = bench.RandWrite, 0
	return t
}

func (o ordinary) measure(ctx context.Context, t task, s setting, d time.Duration) (bench.Result, error) {
	return o.zvhostServer.measure(ctx, o.task(t), s, d)
}

// holes is ordinary, with a file that has no block yet in the file's place: the
// file system finds space for each write, as it does for appends into empty zones.
type holes struct{ ordinary }

func (h holes) name() string { return "zvhost, randwrite to a file of holes" }

// holeBytes is the size of that file: so much that few blocks are written twice.
const holeBytes = 16 << 30

func (h holes) measure(ctx context.Context, t task, s setting, d time.Duration) (r bench.Result, err error) {
	z := *h.zvhostServer
	f := *z.files
	f.holes = true
	z.files = &f
	path := f.of(h.task(t))
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		return r, err
	}
	if err := os.Truncate(path, holeBytes); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.Remove(path)) }()
	return z.measure(ctx, h.task(t), s, d)
}

// qemu is qemu-storage-daemon. Its export has one iothread for all queues: it
// refuses more.
type qemu struct {
	bin    string
	zvhost string // the client
	files  *files
	socket string
}

func (q *qemu) name() string { return "qemu-storage-daemon" }

func (q *qemu) settings(t task) []setting {
	file := func(aio, direct string) setting {
		name := aio + ", buffered"
		if direct == "on" {
			name = aio + ", direct"
		}
		if t.Storage == disk {
			name = aio
		}
		return setting{name, []string{"driver=file,aio=" + aio + ",cache.direct=" + direct}}
	}
	switch t.Storage {
	case nothing:
		return []setting{{"default", nil}, {"poll-max-ns=0", nil}}
	case disk:
		return []setting{file("io_uring", "on"), file("native", "on")}
	}
	return []setting{file("io_uring", "off"), file("io_uring", "on"), file("native", "on"), file("threads", "off")}
}

func (q *qemu) measure(ctx context.Context, t task, s setting, d time.Duration) (bench.Result, error) {
	thread, blockdev := "iothread,id=t0", "driver=null-co,size=68719476736,read-zeroes=off"
	if s.Name == "poll-max-ns=0" {
		thread += ",poll-max-ns=0"
	}
	if len(s.Args) > 0 {
		blockdev = s.Args[0] + ",filename=" + q.files.of(t)
	}
	cmd := exec.Command(q.bin, "--object", thread, "--blockdev", blockdev+",node-name=n0",
		"--export", fmt.Sprintf("type=vhost-user-blk,id=e0,node-name=n0,iothread=t0,writable=on,num-queues=%d,addr.type=unix,addr.path=%s", t.Queues, q.socket))
	return serving(cmd, q.socket, func() (bench.Result, error) { return client(ctx, q.zvhost, []string{"--socket-path", q.socket}, t, d) })
}

// bare is io_uring on the file itself, without a back-end and a guest.
type bare struct {
	bin   string
	files *files
}

func (b *bare) name() string { return bareName }

func (b *bare) settings(t task) []setting {
	direct := setting{"direct", []string{"--cache=direct"}}
	if t.Storage == disk {
		return []setting{direct}
	}
	return []setting{{"buffered", []string{"--cache=buffered"}}, direct}
}

func (b *bare) measure(ctx context.Context, t task, s setting, d time.Duration) (bench.Result, error) {
	return client(ctx, b.bin, append([]string{"--blk-file", b.files.of(t)}, s.Args...), t, d)
}
