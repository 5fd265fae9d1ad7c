package format

// A Finding is one thing that is wrong with an image.
type Finding struct {
	Where string // which part of the image
	What  string // what is wrong with it
	// Remedy is the command line that deals with it, "FILE" being the image; empty where
	// there is none, or the usual one, 'zvhost check FILE --repair'.
	Remedy string
}

func (f Finding) String() string { return f.Where + ": " + f.What }
