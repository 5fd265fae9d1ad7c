package device

import "time"

// DefaultPollMax is how long a worker looks for more work before it sleeps, at
// most. A guest that sleeps for each answer takes 50 to 100 µs from an interrupt
// to its next request, where processors go to sleep too.
const DefaultPollMax = 100 * time.Microsecond

// A poller decides how long to look for more work before going to sleep, from how
// that went before. To fall asleep and be woken costs more than looking for a
// while, but to look in vain costs a processor. So it looks only while that pays:
// the time grows when more work came soon after a worker went to sleep, and is
// nothing after a long sleep. It is the rule of KVM for halted processors
// (halt_poll_ns, virt/kvm/kvm_main.c), with the time found at once instead of by
// doubling: what was seen to be enough, twice.
type poller struct {
	max  time.Duration // 0: never
	time time.Duration // how long to look this time
}

// worthwhile reports whether to continue looking, after having found nothing for so long.
func (p *poller) worthwhile(idle time.Duration) bool { return idle < p.time }

// slept takes note that work came, with a sleep, after so long without any.
func (p *poller) slept(idle time.Duration) {
	if idle > p.max {
		p.time = 0
		return
	}
	p.time = min(2*idle, p.max)
}
