// Package uring is io_uring: setting up rings, the two queues, and the system
// calls, nothing else. What the entries mean is its caller's business (package
// backend/engine, and the benchmark's bare runner).
//
// It imports the standard library and golang.org/x/sys/unix alone. The layouts
// are those of include/uapi/linux/io_uring.h, the rules those of io_uring(7),
// io_uring_setup(2), io_uring_enter(2) and io_uring_register(2).
//
// A Ring belongs to one goroutine that is locked to its thread: it asks for
// SINGLE_ISSUER and DEFER_TASKRUN, with which completions are delivered by that
// thread itself, in batches, when it asks for them. Linux 6.1 is the first that
// has both; an older kernel is told from the error of New, and whoever calls it
// then takes another engine.
package uring
