// Package crash is the kill -9 test: a client writes, appends, resets, finishes and flushes on
// four queues against the real zvhost binary, which is killed at random instants and started
// again on the same image.
//
// Contents: starting the daemon (daemon_test.go), the load (client_test.go), what a disk shows
// after a kill (disk_test.go), and the oracle that decides whether that agrees with the answers
// (zone_test.go, search_test.go, oracle_test.go). docs/durability.md has the rules that it
// checks.
//
// exact_test.go has a client that must not notice the kills: under a keeper, at random instants
// and at every failpoint. reconnect_test.go has one that reconnects. There every request has an
// answer, and the oracle knows the expected result exactly (docs/restart.md).
//
// If so many requests without an answer are in one zone that there are too many orders to try,
// the zone's content is still checked sector by sector for foreign or misplaced data, but not
// its order; the summary at the end counts these cases.
//
// The test prints its seed. A run with -seed uses the same disks, offers the same requests and
// chooses the same instants, as far as two threads can repeat a run:
//
//	go test ./integration/crash -v -args -seed=42 -rounds=1000
//
// Its tests may import integration/rig, vhostuser/frontend, virtio/driver, virtio/guestmem,
// internal/testleak and internal/failpoint. It takes the image's layout from
// docs/image-format.md and shares no code with backend, so that a mistake on one side is
// detected.
package crash
