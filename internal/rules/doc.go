// Package rules holds the tests of what no linter knows about this project:
// which package may import which, what every package must and must not have, and
// that docs/conformance.md names tests that exist. There is nothing else in it.
//
// It imports the standard library alone, and runs the go command.
package rules
