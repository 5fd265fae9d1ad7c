// Package cost tests what the real binary costs the machine that it runs on: no
// processor while nothing is asked of it, and little memory however much is. It is
// about amounts that are the same everywhere; how fast zvhost is, is for
// benchmarks.
//
// It holds tests only, and imports integration/rig, internal/bench, vhostuser/frontend and
// internal/testleak.
package cost
