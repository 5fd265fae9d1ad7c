// Command testcount reads what go test -json prints and makes it short: a line
// for each package as it finishes, what failed tests printed, and the counts.
// A skipped test counts as failed: what cannot run here is to say so by failing.
//
// It is for .ci/gotest.sh only and imports the standard library alone.
package main
