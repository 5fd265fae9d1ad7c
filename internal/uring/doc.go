// Package uring is io_uring: setting up rings, the two queues, and the system calls, nothing
// else. Its callers (package backend/engine, and the benchmark's bare runner) give the entries
// their meaning.
//
// It imports the standard library and golang.org/x/sys/unix alone. The layouts are those of
// include/uapi/linux/io_uring.h, the rules those of io_uring(7), io_uring_setup(2),
// io_uring_enter(2) and io_uring_register(2).
//
// A Ring belongs to one goroutine that is locked to its thread: it uses SINGLE_ISSUER and
// DEFER_TASKRUN, with which that thread itself delivers completions, in batches, when it asks for
// them. Linux 6.1 is the first that has both. On an older kernel New fails, and the caller uses
// another engine.
package uring
