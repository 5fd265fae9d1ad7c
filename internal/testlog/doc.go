// Package testlog is a log that a test can read. It is for tests.
//
// It may import internal/logging and logrus.
package testlog
