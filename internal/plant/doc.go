// Package plant has bugs that are planted on purpose, to show that the tests under crashes, power
// cuts, failing drives and a kernel that loses data find them (integration/crash, powercut,
// drives, writeback; internal/device). The shipped binary contains none of them: without the build
// tag all are constants, and false.
//
//	go build -tags zvhost_plant -ldflags "-X github.com/zvhost/zvhost/internal/plant.bug=early" ./cmd/zvhost
//
// It imports nothing of this module.
package plant
