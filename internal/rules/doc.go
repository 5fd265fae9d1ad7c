// Package rules has tests of the source that no linter does: which package may import which, what
// every package must and must not have, that the tables of docs/conformance.md and
// docs/vhost-user.md agree with the code, and that the documents name files and functions that
// exist. It contains nothing else.
//
// It imports the standard library alone, and runs the go command.
package rules
