package frontend

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// spinLooks is how often Spin checks the ring before it checks the clock and the
// connection.
const spinLooks = 1 << 14

// Spin is Wait, but polls, without calls meanwhile.
func (q *Queue) Spin(done []*Request) (int, error) {
	q.ring.DisableCalls()
	var began time.Time
	for {
		for range spinLooks {
			if n, err := q.Poll(done); n != 0 || err != nil {
				return n, err
			}
		}
		if began.IsZero() {
			began = time.Now()
		} else if q.Timeout > 0 && time.Since(began) > q.Timeout {
			return 0, q.late()
		}
		q.poll[1] = unix.PollFd{Fd: int32(q.d.Client.sock.Int()), Events: unix.POLLRDHUP}
		if n, err := unix.Poll(q.poll[1:2], 0); n > 0 && err == nil {
			return 0, q.cut(ErrGone)
		}
		if q.d.Client.interrupted.Load() {
			return 0, q.cut(ErrInterrupted)
		}
	}
}

// PeerPID is the process at the other end, as it was when it began to listen (SO_PEERCRED,
// unix(7)); 0 if it is in a PID namespace that is not visible here.
func (c *Client) PeerPID() (int, error) {
	cred, err := unix.GetsockoptUcred(c.sock.Int(), unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, fmt.Errorf("who is at the other end of the socket: %w", err)
	}
	return int(cred.Pid), nil
}
