//go:build !zvhost_plant_nodoubt

package virtio

// A bug planted on purpose, by a build tag, to show that random sequences of what guests,
// front-ends and daemons do find it (internal/daemon TestCacheModeInRandomSequences). It
// is off in what is shipped, and being a constant leaves nothing behind in it.
const plantNoDoubt = false // what a guest was shown by another daemon is taken for write-back
