// Package zonemodel is a zoned disk in memory, read off the specification
// (virtio, "Block Device / Device Operation") and not off the code that it is
// held against: one request at a time, states counted when they are asked for,
// nothing clever. Tests hold disks against it: backend's, request by request, and
// integration/suite over a front-end, where several requests are in flight.
//
// It imports the standard library alone, so that nothing of zvhost can be wrong
// in both.
//
// Where the specification leaves a choice, a model takes the one that
// docs/conformance.md names under "Readings". One choice is left open: which
// implicitly open zone is closed to make room, see [Model.Prefer].
package zonemodel
