package uring

import "golang.org/x/sys/unix"

// The operations used here (enum io_uring_op).
const (
	OpReadv   = 1
	OpWritev  = 2
	OpFsync   = 3
	OpPollAdd = 6
	OpRead    = 22
	OpWrite   = 23
)

// FsyncDatasync makes an OpFsync a data sync (IORING_FSYNC_DATASYNC), in RWFlags.
const FsyncDatasync = 1 << 0

const (
	setupCQSize       = 1 << 3
	setupSubmitAll    = 1 << 7
	setupTaskrunFlag  = 1 << 9
	setupSingleIssuer = 1 << 12
	setupDeferTaskrun = 1 << 13

	featSingleMmap = 1 << 0
	featNoDrop     = 1 << 1

	enterGetEvents = 1 << 0
	enterExtArg    = 1 << 3

	sqCQOverflow = 1 << 1
	sqTaskrun    = 1 << 2

	offSQRing = 0
	offSQEs   = 0x10000000
)

// params is struct io_uring_params.
type params struct {
	sqEntries    uint32
	cqEntries    uint32
	flags        uint32
	sqThreadCPU  uint32
	sqThreadIdle uint32
	features     uint32
	wqFD         uint32
	_            [3]uint32
	sq           sqOffsets
	cq           cqOffsets
}

// sqOffsets is struct io_sqring_offsets.
type sqOffsets struct {
	head, tail, ringMask, ringEntries, flags, dropped, array, _ uint32
	userAddr                                                    uint64
}

// cqOffsets is struct io_cqring_offsets.
type cqOffsets struct {
	head, tail, ringMask, ringEntries, overflow, cqes, flags, _ uint32
	userAddr                                                    uint64
}

// An SQE is one submission queue entry (struct io_uring_sqe) with the fields that
// reads, writes and syncs use.
type SQE struct {
	Opcode   uint8
	Flags    uint8
	IOPrio   uint16
	FD       int32
	Off      uint64
	Addr     uint64
	Len      uint32
	RWFlags  uint32
	UserData uint64
	_        [3]uint64
}

// A CQE is one completion queue entry (struct io_uring_cqe).
type CQE struct {
	UserData uint64
	Res      int32 // bytes, or a negative errno
	Flags    uint32
}

// getEventsArg is struct io_uring_getevents_arg.
type getEventsArg struct {
	sigmask     uint64
	sigmaskSize uint32
	minWaitUsec uint32
	ts          *unix.Timespec
}
