// Package cost tests the resources that the real binary uses: no processor time while it is
// idle, and little memory however large the load is. It tests amounts that are the same on every
// machine; benchmarks measure speed.
//
// It contains only tests, and imports integration/rig, internal/bench, vhostuser/frontend and
// internal/testleak.
package cost
