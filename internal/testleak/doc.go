// Package testleak makes tests fail that leave something behind: file
// descriptors, shared mappings or goroutines.
//
// A package turns it on with one line:
//
//	func TestMain(m *testing.M) { testleak.Main(m) }
//
// and may look at finer steps with [Take] and [Snapshot.Wait]. It is for tests
// only and imports the standard library alone.
package testleak
