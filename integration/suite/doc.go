// Package suite is what every zoned disk that zvhost serves has to pass, written
// once against the front-end: request by request in every zone state with every
// kind of argument (table.go, table_args.go, pressure.go), and in batches of
// requests on several queues at once, which some order has to explain
// (search.go). What a disk has to answer comes from internal/zonemodel, never from
// the disk's own code.
//
// A disk comes from a [Target] (target.go). The tests of this package have two:
// one that starts its own daemons on new images, with the geometries in
// targets_test.go, and one that goes to a socket where something is served
// already. Others join as such a function: a host's zoned drive, another engine,
// another ring format.
//
//	go test ./integration/suite                       its own daemons
//	go test ./integration/suite -args -socket PATH    what is served there; all of it is erased
//	... -socket PATH -control PATH -image FILE        and zones out of service, and the table in the file
//	... -socket PATH -sample -one-in 13               a large or slow disk: less of what is alike
//	go test ./integration/suite -run TestScripts -args -script FILE    a script of requests
//
// A test runs in its own folder, so paths are given from the root. The binary of
// go test -c needs nothing beside it but the socket, so it runs in a guest as well.
//
// A script (script.go) is a list of batches in words. The property test prints one
// when it finds that no order explains what a disk has answered, as short as it
// could make it; those worth keeping stand in testdata/scripts and run always.
//
// It may import vhostuser/frontend, virtio/driver and internal/zonemodel; its
// tests besides what serves a disk. It covers "Block Device / Device Operation" of
// the virtio specification, as far as it is about zoned disks.
package suite
