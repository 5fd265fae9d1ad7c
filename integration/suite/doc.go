// Package suite tests every kind of zoned disk that zvhost serves, over a front-end: request by
// request in every zone state with every kind of argument (table.go, table_args.go,
// pressure.go), and in batches of requests on several queues at once, whose answers some order of
// the requests has to explain (search.go). internal/zonemodel gives the expected answers, never
// the disk's own code.
//
// A disk comes from a [Target] (target.go). The tests of this package have two: one starts its
// own daemons on new images, with the geometries in targets_test.go; the other connects to a
// socket on which a disk is served already. Others are such functions too: a host's zoned
// drive, another engine, another ring format.
//
//	go test ./integration/suite                       its own daemons
//	go test ./integration/suite -args -socket PATH    the disk that is served there; all of it is erased
//	... -socket PATH -control PATH -image FILE        and zones out of service, and the table in the file
//	... -socket PATH -sample -one-in 13               a large or slow disk: fewer similar cases
//	go test ./integration/suite -run TestScripts -args -script FILE    a script of requests
//
// A test runs in its own directory, so give absolute paths. The binary of go test -c needs only
// the socket, so it runs in a guest as well.
//
// A script (script.go) is a list of batches as text. The property test prints one when no order
// explains the disk's answers, as short as it could make it. Scripts in testdata/scripts run
// always.
//
// It may import vhostuser/frontend, virtio/driver and internal/zonemodel; its tests also import
// what serves a disk. It covers "Block Device / Device Operation" of the virtio specification,
// as far as it concerns zoned disks.
package suite
