// Command compare holds zvhost against qemu-storage-daemon (make bench-compare):
// the same files, the same client, in turn, A B A B, and writes down the ratios.
//
// What lives here: the cases (cases.go), who is measured (runner.go, servers.go)
// on which files (files.go), the whole of it (main.go, compare.go), what the
// figures say (stats.go, marks.go), and the document with its plot (document.go,
// plot.go).
//
// It may import internal/bench, whose results zvhost bench prints as JSON: the
// client runs in a process of its own, as a guest does.
//
// Only ratios of one run count. A case is measured in pairs, one of either side
// right after the other, and its ratio is the median of the pairs' ratios: what
// else goes on on the machine then hits both sides alike.
package main
