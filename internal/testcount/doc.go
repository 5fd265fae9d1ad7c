// Command testcount summarises the output of go test -json: a line for each package as it
// finishes, the output of failed tests, and the counts. A skipped test counts as failed: a test
// that cannot run must fail.
//
// It is for .ci/gotest.sh only and imports the standard library alone.
package main
