// Package testleak makes tests fail that leave file descriptors, shared mappings or goroutines
// behind.
//
// A package enables it with one line:
//
//	func TestMain(m *testing.M) { testleak.Main(m) }
//
// and can check smaller steps with [Take] and [Snapshot.Wait]. It is for tests only and imports
// the standard library alone.
package testleak
