// Package control is how a disk is changed while it is being served, or broken by
// a test author: a UNIX stream socket on which zvhost fault, zvhost zone set-state
// and zvhost resize talk to the daemon.
//
// What lives here: the words of the protocol (protocol.go), the daemon's side of
// it (server.go: connections; accept.go: how they come, also to internal/daemon's own
// socket; commands.go: what a request does) and the client's (client.go). A request is one line of JSON, and so is its answer; a connection
// may carry any number of them, one after the other.
//
// It may import backend. The server is used by internal/daemon, the client by
// cmd/zvhost. It logs nothing.
//
// It follows no specification; unix(7) has SO_PEERCRED.
package control
