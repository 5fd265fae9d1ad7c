package vhostuser

import "fmt"

// Request is the number of a front-end message ("Front-end message types").
type Request uint32

// The messages that a front-end may send.
const (
	GetFeatures Request = iota + 1
	SetFeatures
	SetOwner
	ResetOwner
	SetMemTable
	SetLogBase
	SetLogFD
	SetVringNum
	SetVringAddr
	SetVringBase
	GetVringBase
	SetVringKick
	SetVringCall
	SetVringErr
	GetProtocolFeatures
	SetProtocolFeatures
	GetQueueNum
	SetVringEnable
	SendRARP
	NetSetMTU
	SetBackendReqFD
	IOTLBMsg
	SetVringEndian
	GetConfig
	SetConfig
	CreateCryptoSession
	CloseCryptoSession
	PostcopyAdvise
	PostcopyListen
	PostcopyEnd
	GetInflightFD
	SetInflightFD
	GPUSetSocket
	ResetDevice
	VringKick
	GetMaxMemSlots
	AddMemReg
	RemMemReg
	SetStatus
	GetStatus
	GetSharedObject
	SetDeviceStateFD
	CheckDeviceState
	GetShmemConfig

	numRequests
)

// FeatureProtocol is the feature bit by which both ends say that they know
// protocol features (VHOST_USER_F_PROTOCOL_FEATURES). No driver ever sees it.
const FeatureProtocol uint64 = 1 << 30

// FeatureLogAll is the feature bit by which a front-end has every write to guest
// memory marked in the dirty log, for as long as it is set (VHOST_F_LOG_ALL). No
// driver ever sees it.
const FeatureLogAll uint64 = 1 << 26

// The protocol features, as masks ("Protocol features").
const (
	ProtocolMQ uint64 = 1 << iota
	ProtocolLogShmfd
	ProtocolRARP
	ProtocolReplyAck
	ProtocolMTU
	ProtocolBackendReq
	ProtocolCrossEndian
	ProtocolCryptoSession
	ProtocolPagefault
	ProtocolConfig
	ProtocolBackendSendFD
	ProtocolHostNotifier
	ProtocolInflightShmfd
	ProtocolResetDevice
	ProtocolInbandNotifications
	ProtocolConfigureMemSlots
	ProtocolStatus
	ProtocolXenMmap
	ProtocolSharedObject
	ProtocolDeviceState
	ProtocolGetVringBaseInflight
	ProtocolGPAAddresses
	ProtocolShmem
)

// Offered is every protocol feature that a session knows. Nothing else may be
// added lightly: QEMU's generic vhost-user device takes each one it is offered.
const Offered = ProtocolMQ | ProtocolLogShmfd | ProtocolReplyAck | ProtocolBackendReq | ProtocolConfig | ProtocolResetDevice |
	ProtocolConfigureMemSlots | ProtocolStatus | ProtocolInflightShmfd | ProtocolDeviceState

// A row has everything about one message. A message without a handler is known
// by name only, so that its refusal can be a clear one.
type row struct {
	name  string
	needs uint64 // protocol feature that must be negotiated; 0: none
	size  int    // exact payload of the request in bytes; anySize: the parser knows
	// minFDs and maxFDs bound how many descriptors come along. Where the payload
	// decides, the handler checks the rest.
	minFDs, maxFDs int
	slot           slot // what they are
	replies        bool // it has an answer of its own, so REPLY_ACK adds none
	emptyOnError   bool // its answer has no payload if it failed
	handle         func(*Session, *Message) (reply []byte, err error)
	show           func(payload []byte) string // request and answer in words
}

const anySize = -1

// table is the protocol: everything that is known about a message is in its
// row, and nowhere else.
var table = [numRequests]row{
	GetFeatures: {name: "GET_FEATURES", replies: true, handle: (*Session).getFeatures, show: showHex},
	SetFeatures: {name: "SET_FEATURES", size: u64Size, handle: (*Session).setFeatures, show: showHex},
	SetOwner:    {name: "SET_OWNER", handle: (*Session).setOwner},
	ResetOwner:  {name: "RESET_OWNER", handle: (*Session).resetOwner},
	SetMemTable: {name: "SET_MEM_TABLE", size: anySize, maxFDs: MaxTableRegions, slot: memorySlot, handle: (*Session).setMemTable, show: showMemTable},

	SetLogBase: {name: "SET_LOG_BASE", needs: ProtocolLogShmfd, size: logSize, minFDs: 1, maxFDs: 1, slot: memorySlot, replies: true, handle: (*Session).setLogBase, show: showLogArea},
	SetLogFD:   {name: "SET_LOG_FD", minFDs: 1, maxFDs: 1, slot: notifierSlot, handle: (*Session).setLogFD},

	SetVringNum:    {name: "SET_VRING_NUM", size: vringStateSize, handle: (*Session).setVringNum, show: showVringState},
	SetVringAddr:   {name: "SET_VRING_ADDR", size: vringAddrSize, handle: (*Session).setVringAddr, show: showVringAddr},
	SetVringBase:   {name: "SET_VRING_BASE", size: vringStateSize, handle: (*Session).setVringBase, show: showVringState},
	GetVringBase:   {name: "GET_VRING_BASE", size: vringStateSize, replies: true, handle: (*Session).getVringBase, show: showVringState},
	SetVringKick:   {name: "SET_VRING_KICK", size: u64Size, maxFDs: 1, slot: notifierSlot, handle: (*Session).setVringKick, show: showVringFile},
	SetVringCall:   {name: "SET_VRING_CALL", size: u64Size, maxFDs: 1, slot: notifierSlot, handle: (*Session).setVringCall, show: showVringFile},
	SetVringErr:    {name: "SET_VRING_ERR", size: u64Size, maxFDs: 1, slot: notifierSlot, handle: (*Session).setVringErr, show: showVringFile},
	SetVringEnable: {name: "SET_VRING_ENABLE", size: vringStateSize, handle: (*Session).setVringEnable, show: showVringState},

	// These two are allowed before anything is negotiated: they negotiate.
	GetProtocolFeatures: {name: "GET_PROTOCOL_FEATURES", replies: true, handle: (*Session).getProtocolFeatures, show: showProtocol},
	SetProtocolFeatures: {name: "SET_PROTOCOL_FEATURES", size: u64Size, handle: (*Session).setProtocolFeatures, show: showProtocol},
	// For these two it is enough that the feature is offered.
	GetQueueNum: {name: "GET_QUEUE_NUM", replies: true, handle: (*Session).getQueueNum, show: showNumber},
	ResetDevice: {name: "RESET_DEVICE", handle: (*Session).resetDevice},

	GetConfig: {name: "GET_CONFIG", needs: ProtocolConfig, size: anySize, replies: true, emptyOnError: true, handle: (*Session).getConfig, show: showConfig},
	SetConfig: {name: "SET_CONFIG", needs: ProtocolConfig, size: anySize, handle: (*Session).setConfig, show: showConfig},

	SetBackendReqFD: {name: "SET_BACKEND_REQ_FD", needs: ProtocolBackendReq, minFDs: 1, maxFDs: 1, slot: socketSlot, handle: (*Session).setBackendReqFD},

	SetDeviceStateFD: {name: "SET_DEVICE_STATE_FD", needs: ProtocolDeviceState, size: u64Size, minFDs: 1, maxFDs: 1, replies: true, handle: (*Session).setDeviceStateFD, show: showStateTransfer},
	CheckDeviceState: {name: "CHECK_DEVICE_STATE", needs: ProtocolDeviceState, replies: true, handle: (*Session).checkDeviceState, show: showHex},

	GetMaxMemSlots: {name: "GET_MAX_MEM_SLOTS", needs: ProtocolConfigureMemSlots, replies: true, handle: (*Session).getMaxMemSlots, show: showNumber},
	AddMemReg:      {name: "ADD_MEM_REG", needs: ProtocolConfigureMemSlots, size: memRegSize, minFDs: 1, maxFDs: 1, slot: memorySlot, handle: (*Session).addMemReg, show: showMemReg},
	// QEMU sends a descriptor here, against the protocol, which allows for it.
	RemMemReg: {name: "REM_MEM_REG", needs: ProtocolConfigureMemSlots, size: memRegSize, maxFDs: 1, slot: memorySlot, handle: (*Session).remMemReg, show: showMemReg},

	GetInflightFD: {name: "GET_INFLIGHT_FD", needs: ProtocolInflightShmfd, size: anySize, replies: true, handle: (*Session).getInflightFD, show: showInflight},
	SetInflightFD: {name: "SET_INFLIGHT_FD", needs: ProtocolInflightShmfd, size: anySize, minFDs: 1, maxFDs: 1, slot: memorySlot, handle: (*Session).setInflightFD, show: showInflight},

	SetStatus: {name: "SET_STATUS", needs: ProtocolStatus, size: u64Size, handle: (*Session).setStatus, show: showHex},
	GetStatus: {name: "GET_STATUS", needs: ProtocolStatus, replies: true, handle: (*Session).getStatus, show: showHex},

	SendRARP:            {name: "SEND_RARP", needs: ProtocolRARP},
	NetSetMTU:           {name: "NET_SET_MTU", needs: ProtocolMTU},
	IOTLBMsg:            {name: "IOTLB_MSG"},
	SetVringEndian:      {name: "SET_VRING_ENDIAN", needs: ProtocolCrossEndian},
	CreateCryptoSession: {name: "CREATE_CRYPTO_SESSION", needs: ProtocolCryptoSession},
	CloseCryptoSession:  {name: "CLOSE_CRYPTO_SESSION", needs: ProtocolCryptoSession},
	PostcopyAdvise:      {name: "POSTCOPY_ADVISE", needs: ProtocolPagefault},
	PostcopyListen:      {name: "POSTCOPY_LISTEN", needs: ProtocolPagefault},
	PostcopyEnd:         {name: "POSTCOPY_END", needs: ProtocolPagefault},
	GPUSetSocket:        {name: "GPU_SET_SOCKET"},
	VringKick:           {name: "VRING_KICK", needs: ProtocolInbandNotifications},
	GetSharedObject:     {name: "GET_SHARED_OBJECT", needs: ProtocolSharedObject},
	GetShmemConfig:      {name: "GET_SHMEM_CONFIG", needs: ProtocolShmem},
}

// row returns what is known about a request; of an unknown one, nothing.
func (r Request) row() row {
	if r < numRequests {
		return table[r]
	}
	return row{}
}

func (r Request) String() string {
	if name := r.row().name; name != "" {
		return name
	}
	return fmt.Sprintf("message %d", uint32(r))
}

// admit checks a message against its row, before its handler sees it.
func (m *Message) admit(r row, negotiated uint64) error {
	switch fds := len(m.Files) + m.Surplus; {
	case r.name == "":
		return fmt.Errorf("no such message")
	case r.handle == nil && r.needs != 0:
		return fmt.Errorf("it needs protocol feature %s, which this back-end does not offer", showProtocolMask(r.needs))
	case r.handle == nil:
		return fmt.Errorf("not supported by this back-end")
	case r.needs&^negotiated != 0:
		return fmt.Errorf("it needs protocol feature %s, which was not negotiated", showProtocolMask(r.needs))
	case r.size != anySize && len(m.Payload) != r.size:
		return fmt.Errorf("payload of %d bytes instead of %d", len(m.Payload), r.size)
	case fds == 0 && m.Request == AddMemReg:
		return fmt.Errorf("0 descriptors came along instead of 1: %s", mustShare)
	case fds < r.minFDs || fds > r.maxFDs:
		if r.minFDs == r.maxFDs {
			return fmt.Errorf("%d descriptors came along instead of %d", fds, r.maxFDs)
		}
		return fmt.Errorf("%d descriptors came along instead of %d to %d", fds, r.minFDs, r.maxFDs)
	}
	for _, f := range m.Files {
		if err := r.slot.check(f); err != nil {
			return err
		}
	}
	return nil
}
