// Command compare compares zvhost with qemu-storage-daemon (make bench-compare): the same files
// and the same client, alternately, A B A B. It writes the ratios into a document.
//
// Contents: the cases (cases.go), the measured servers (runner.go, servers.go) and their files
// (files.go), the run (main.go, compare.go), the statistics and targets (stats.go, marks.go),
// and the document with its plot (document.go, plot.go).
//
// It may import internal/bench, whose results zvhost bench prints as JSON: the client runs in a
// process of its own, as a guest does.
//
// Only ratios of one run are meaningful. A case is measured in pairs, one side right after the
// other, and its ratio is the median of the pairs' ratios, so that other work on the machine
// affects both sides alike.
package main
