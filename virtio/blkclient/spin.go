package blkclient

import (
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
		conn, interrupt := q.d.transport.Watch()
		q.poll[1] = unix.PollFd{Fd: int32(conn), Events: unix.POLLRDHUP}
		q.poll[2] = unix.PollFd{Fd: int32(interrupt), Events: unix.POLLIN}
		if n, err := unix.Poll(q.poll[1:3], 0); n == 0 || err != nil {
			continue
		}
		if q.poll[2].Revents != 0 {
			return 0, q.cut(ErrInterrupted)
		}
		return 0, q.cut(ErrGone)
	}
}
