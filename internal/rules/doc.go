// Package rules holds the tests of what no linter knows about this project:
// which package may import which, and what every package must and must not
// have. There is nothing else in it.
//
// It imports the standard library alone, and runs the go command.
package rules
