// Package control changes a disk while it is being served, and injects faults for tests: zvhost
// fault, zvhost zone set-state and zvhost resize talk to the daemon over a UNIX stream socket.
//
// Contents: the protocol (protocol.go), the daemon's side of it (server.go: connections;
// accept.go: accepting them, also for internal/daemon's own socket; commands.go: the commands)
// and the client's (client.go). A request is one line of JSON, and so is its answer; a connection
// carries any number of them, one after the other.
//
// It may import backend and internal/foreign. internal/daemon uses the server, cmd/zvhost the client. It logs
// nothing.
//
// It follows no specification; unix(7) has SO_PEERCRED.
package control
