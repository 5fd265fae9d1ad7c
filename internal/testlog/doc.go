// Package testlog is a log that a test can look into. It is for tests.
//
// It may import internal/logging and logrus.
package testlog
