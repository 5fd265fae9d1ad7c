// Package zonemodel is a zoned disk in memory, written from the specification (virtio, "Block
// Device / Device Operation") and not from the code that it is compared with: one request at a
// time, states counted when they are asked for, no optimisation. Tests compare disks with it:
// backend's, request by request, and integration/suite over a front-end, with several requests in
// flight.
//
// It imports the standard library alone, so that no mistake of zvhost can be in both.
//
// Where the specification leaves a choice, the model makes the one that docs/conformance.md names
// under "Readings". One choice remains open: which implicitly open zone is closed to make room,
// see [Model.Prefer].
package zonemodel
