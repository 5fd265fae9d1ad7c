// Package crash holds the kill -9 test: a client that writes, appends, resets,
// finishes and flushes on four queues against the real zvhost binary, which is
// killed at random instants and started again on the same image.
//
// What lives here: how the daemon is started (daemon_test.go), the load
// (client_test.go), what a disk shows after a kill (disk_test.go), and the oracle
// that says whether that is what was acknowledged (zone_test.go, search_test.go,
// oracle_test.go). docs/durability.md has the rules that it holds the daemon to.
//
// exact_test.go has the client that must not notice anything: under a keeper, at
// random instants and at every failpoint, and reconnect_test.go the one that
// connects anew. There every request has an answer, and the oracle has none to
// guess about (docs/restart.md).
//
// Where so many requests without an answer meet in one zone that the ways to
// order them are too many to try, the zone's content is still checked sector by
// sector for what is foreign or misplaced, but not its order; the tally at the
// end counts these.
//
// The seed is printed; a run with -seed has the same disks, the same requests
// offered and the same instants chosen, as far as two threads ever do the same:
//
//	go test ./integration/crash -v -args -seed=42 -rounds=1000
//
// It may import, in its tests, integration/rig, vhostuser/frontend, virtio/driver,
// virtio/guestmem, internal/testleak and internal/failpoint. It knows the image's layout
// from docs/image-format.md and shares no code with backend, so that a mistake on one
// side shows.
package crash
